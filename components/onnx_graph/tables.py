"""A piece of an ONNX graph that turns the cells of a table into the numbers of training: gaps, dates and categories."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from torchmill.components.encoding.columns import CATEGORICAL, NUMERIC, Column, Columns
from torchmill.components.encoding.dates import DATE_PARTS, DAY, DAYS, HOURS, MONTHS, TIME_PARTS

OPSET = 20
REFUSAL = "numbers must be finite, or nan without a value, and some are infinite or too large"


class Graph:
    """Nodes and constants of a graph as they are added; values are called by their names."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []

    def add(self, operator: str, *inputs: str, name: str = "", **attributes: Any) -> str:
        """Add a node, and return its output."""
        output = f"{operator}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, inputs, [output], name or output, **attributes))
        return output

    def constant(self, values: Any, dtype: Any = np.float64) -> str:
        """Add a constant, and return its name."""
        name = f"constant_{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.asarray(values, dtype), name))
        return name

    def whole(self, operator: str, value: str, number: int) -> str:
        """Add a node that computes with int64 values and a whole number."""
        return self.add(operator, value, self.constant(number, np.int64))

    def cast(self, value: str, kind: int) -> str:
        return self.add("Cast", value, to=kind)


def cells(columns: Columns) -> onnx.ModelProto:
    """Return a graph from ``Columns.model_inputs`` to the encoded features, float32 (batch, F)."""
    graph, inputs, blocks = Graph(), [], []
    order = np.empty(len(columns.features), np.int64)
    start = 0
    if columns.of_numbers:
        inputs.append(helper.make_tensor_value_info(NUMERIC, TensorProto.DOUBLE, ["batch", len(columns.of_numbers)]))
        blocks += _numbers(graph, columns.of_numbers)
    if columns.of_categories:
        shape = ["batch", len(columns.of_categories)]
        inputs.append(helper.make_tensor_value_info(CATEGORICAL, TensorProto.STRING, shape))
        blocks += _categories(graph, columns.of_categories)
    for positions in _positions(columns):
        order[positions] = np.arange(start, start + len(positions))
        start += len(positions)
    together = graph.add("Concat", *blocks, axis=1) if blocks[1:] else blocks[0]
    features = graph.add("Gather", together, graph.constant(order, np.int64), axis=1)
    output = helper.make_tensor_value_info(features, TensorProto.FLOAT, ["batch", len(order)])
    proto = helper.make_graph(graph.nodes, "cells", inputs, [output], graph.constants)
    return helper.make_model(proto, opset_imports=[helper.make_opsetid("", OPSET)])


def _positions(columns: Columns) -> list[list[int]]:
    """Return the places in a row of each block's numbers, in the order in which the blocks are concatenated."""
    starts = {name: span.start for name, span in columns.spans.items()}
    plain = [column for column in columns.of_numbers if not column.is_date]
    dates = [column for column in columns.of_numbers if column.is_date]
    gaps = [column for column in columns.of_numbers if column.has_gaps]
    blocks = [[starts[column.name] for column in plain]]
    blocks.append([starts[column.name] + 1 + piece for column in plain for piece in range(len(column.edges[1:]))])
    for column in dates:
        parts = len(DATE_PARTS) + len(TIME_PARTS) * column.has_times
        blocks.append([starts[column.name] + part for part in range(parts)])
    blocks.append([starts[column.name] + column.width - 1 for column in gaps])
    of_categories = columns.of_categories
    blocks.append([starts[column.name] + at for column in of_categories for at in range(len(column.categories))])
    blocks.append([starts[column.name] + column.width - 1 for column in of_categories if column.has_other])
    return blocks


def _numbers(graph: Graph, columns: Sequence[Column]) -> list[str]:
    """Return the blocks of the numbers, of each date's parts, and of the gaps."""
    is_gap = graph.add("IsNaN", NUMERIC)
    filled = graph.add("Where", is_gap, graph.constant([[column.median for column in columns]]), _checked(graph))
    if any(column.ends for column in columns):
        lows, highs = zip(*(column.ends or (-np.inf, np.inf) for column in columns), strict=True)
        filled = graph.add("Min", graph.add("Max", filled, graph.constant([lows])), graph.constant([highs]))
    blocks = []
    if plain := [at for at, column in enumerate(columns) if not column.is_date]:
        offsets = graph.constant([[columns[at].offset for at in plain]])
        centred = graph.add("Sub", _chosen(graph, filled, plain), offsets)
        blocks.append(graph.cast(centred, TensorProto.FLOAT))
        blocks += _pieces(graph, blocks[0], [columns[at] for at in plain])
    for at, column in enumerate(columns):
        if column.is_date:
            blocks.append(_date(graph, _chosen(graph, filled, [at]), column))
    if gaps := [at for at, column in enumerate(columns) if column.has_gaps]:
        blocks.append(graph.cast(_chosen(graph, is_gap, gaps), TensorProto.FLOAT))
    return blocks


def _pieces(graph: Graph, centred: str, columns: Sequence[Column]) -> list[str]:
    """Return the block of the pieces of numbers, if there are some."""
    if not any(column.edges for column in columns):
        return []
    places = [at for at, column in enumerate(columns) for _ in column.edges[1:]]
    starts = graph.constant([[start for column in columns for start in column.edges[:-1]]])
    ends = graph.constant([[end for column in columns for end in column.edges[1:]]])
    values = _chosen(graph, graph.cast(centred, TensorProto.DOUBLE), places)
    share = graph.add("Div", graph.add("Sub", values, starts), graph.add("Sub", ends, starts))
    within = graph.add("Clip", share, graph.constant(0.0), graph.constant(1.0))
    return [graph.cast(within, TensorProto.FLOAT)]


def _chosen(graph: Graph, values: str, places: Sequence[int]) -> str:
    return graph.add("Gather", values, graph.constant(places, np.int64), axis=1)


def _checked(graph: Graph) -> str:
    """Return the numbers. A node refuses values that are infinite in float32; its name says so."""
    is_infinite = graph.add("IsInf", graph.cast(NUMERIC, TensorProto.FLOAT))
    worst = graph.add("ReduceMax", graph.cast(is_infinite, TensorProto.INT64), keepdims=0)
    # Reshape refuses sides that don't multiply to the number of values.
    sides = graph.add("Add", graph.add("Shape", NUMERIC), worst)
    return graph.add("Reshape", NUMERIC, sides, name=REFUSAL)


def _date(graph: Graph, seconds: str, column: Column) -> str:
    """Return the parts of a column of dates, float32 (batch, parts), as ``date_parts`` computes them."""
    one_day = graph.constant(float(DAY))
    number = graph.add("Floor", graph.add("Div", seconds, one_day))
    days = graph.cast(number, TensorProto.INT64)
    year, month, day = _year_month_day(graph, days)
    weekday = graph.whole("Mod", graph.whole("Add", days, 3), 7)
    since = graph.add("Sub", number, graph.constant(column.offset))
    parts = [since, graph.cast(year, TensorProto.DOUBLE)]
    parts += [_looked_up(graph, MONTHS, month), _looked_up(graph, DAYS, day), _looked_up(graph, np.eye(7), weekday)]
    if column.has_times:
        within = graph.add("Floor", graph.add("Sub", seconds, graph.add("Mul", number, one_day)))
        hour = graph.whole("Div", graph.cast(within, TensorProto.INT64), 3600)
        parts += [graph.add("Div", within, one_day), _looked_up(graph, HOURS, hour)]
    return graph.cast(graph.add("Concat", *parts, axis=1), TensorProto.FLOAT)


def _looked_up(graph: Graph, table: np.ndarray, rows: str) -> str:
    """Return rows of a table, float64 (batch, K), by their numbers (batch, 1)."""
    return graph.add("Squeeze", graph.add("Gather", graph.constant(table), rows), graph.constant([1], np.int64))


def _year_month_day(graph: Graph, days: str) -> tuple[str, str, str]:
    """Return the year, and month and day from 0, of days since 1970, all int64.

    Years begin in March here, so that the leap day is their last. Source: Howard Hinnant, "chrono-Compatible Low-Level
    Date Algorithms", civil_from_days, for years from 0.
    """
    whole, add = graph.whole, graph.add
    since = whole("Add", days, 719_468)
    era = whole("Div", since, 146_097)
    of_era = add("Sub", since, whole("Mul", era, 146_097))
    leap = add("Sub", add("Sub", of_era, whole("Div", of_era, 1_460)), whole("Div", of_era, 146_096))
    year_of_era = whole("Div", add("Add", leap, whole("Div", of_era, 36_524)), 365)
    before = add("Add", whole("Mul", year_of_era, 365), whole("Div", year_of_era, 4))
    of_year = add("Sub", of_era, add("Sub", before, whole("Div", year_of_era, 100)))
    march_month = whole("Div", whole("Add", whole("Mul", of_year, 5), 2), 153)
    day = add("Sub", of_year, whole("Div", whole("Add", whole("Mul", march_month, 153), 2), 5))
    month = whole("Mod", whole("Add", march_month, 2), 12)
    is_early = graph.cast(whole("Less", month, 2), TensorProto.INT64)
    year = add("Add", add("Add", year_of_era, whole("Mul", era, 400)), is_early)
    return year, month, day


def _categories(graph: Graph, columns: Sequence[Column]) -> list[str]:
    """Return the blocks of the one-hot categories, and of "other" in the columns that have it."""
    places = [at for at, column in enumerate(columns) for _ in column.categories]
    texts = [category for column in columns for category in column.categories]
    one_hot = graph.add("Equal", _chosen(graph, CATEGORICAL, places), graph.constant([texts], object))
    blocks = [graph.cast(one_hot, TensorProto.FLOAT)]
    if other := [at for at, column in enumerate(columns) if column.has_other]:
        belongs = np.array(places)[:, None] == np.array(other)[None]
        known = graph.add("MatMul", graph.cast(one_hot, TensorProto.DOUBLE), graph.constant(belongs))
        rest = graph.add("Sub", graph.constant(1.0), known)
        blocks.append(graph.cast(rest, TensorProto.FLOAT))
    return blocks
