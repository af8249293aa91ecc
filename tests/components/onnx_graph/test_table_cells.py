"""The graph before a network turns cells into the same numbers as the data set has."""

import numpy as np
import onnx
import pytest
from onnx.reference import ReferenceEvaluator

from torchmill.components.encoding.columns import Column, Columns
from torchmill.components.onnx_graph.tables import REFUSAL, cells
from torchmill.components.onnx_model.session import open_session

YEAR_1, YEAR_9999 = -62_135_596_800, 253_402_300_799
COLUMNS = Columns(
    (
        Column("size", median=3.5, has_gaps=True),
        Column("at", median=86_400.0 * 19_000, offset=19_000.0, has_gaps=True, is_date=True, has_times=True),
        Column("color", ("", "blue", "red"), has_other=True),
        Column("stamp", offset=1.7e9, median=1.7e9, edges=(-1.5, -0.25, 0.5, 2.0)),
        Column("cut", median=0.1, has_gaps=True, ends=(-1.1, 0.7), edges=(-1.0, 0.25, 0.5)),
        Column("day", median=0.0, is_date=True),
        Column("kind", ("a", "b")),
    )
)
SOME = {
    "numbers": Columns((Column("x", median=1.0), Column("y", median=2.0, has_gaps=True))),
    "categories": Columns((Column("x", ("a",), has_other=True), Column("y", ("b", "c")))),
    "dates": Columns((Column("x", median=0.0, is_date=True, has_times=True),)),
    "all": COLUMNS,
}


def random_cells(columns: Columns, rows: int = 5000) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)

    def cells(column: Column) -> np.ndarray:
        if column.categories:
            return rng.choice(np.array([*column.categories, "", "?", "rare"], object), rows)
        values = rng.integers(YEAR_1, YEAR_9999, rows).astype(float) if column.is_date else rng.normal(size=rows)
        if column.is_date and not column.has_times:
            values = values // 86_400 * 86_400
        return np.where(rng.random(rows) < 0.2, np.nan, np.round(values + column.offset * (not column.is_date), 1))

    numbers, names = [
        np.stack([cells(c) for c in side], 1) if side else None for side in (columns.of_numbers, columns.of_categories)
    ]
    return {name: array for name, array in (("numeric", numbers), ("categorical", names)) if array is not None}


@pytest.mark.parametrize("name", SOME)
def test_the_graph_encodes_as_the_data_set_does(name):
    columns, model = SOME[name], cells(SOME[name])
    onnx.checker.check_model(model, full_check=True)
    raw = random_cells(columns)
    encoded = columns.encode(raw)
    assert encoded.dtype == np.float32 and encoded.shape == (5000, len(columns.features)) and np.isfinite(encoded).all()
    (by_graph,) = open_session(model.SerializeToString()).run(None, raw)
    assert np.array_equal(by_graph, encoded)
    first = {side: values[:20] for side, values in raw.items()}
    (by_reference,) = ReferenceEvaluator(model).run(None, first)
    assert np.array_equal(by_reference, encoded[:20])


@pytest.mark.parametrize("name", SOME)
def test_encoded_rows_have_cells_that_are_encoded_alike(name):
    columns = SOME[name]
    encoded = columns.encode(random_cells(columns))
    assert np.array_equal(columns.encode(columns.model_inputs(encoded)), encoded)


@pytest.mark.parametrize("value", [np.inf, -np.inf, 1e39])
def test_infinite_numbers_are_refused_in_words(value):
    with pytest.raises(Exception, match=REFUSAL):
        open_session(cells(SOME["numbers"]).SerializeToString()).run(None, {"numeric": np.array([[1.0, value]])})


def test_parts_of_dates_are_those_of_the_calendar():
    column = COLUMNS.columns[1]
    (row,) = column.encode(np.array([np.datetime64("2024-02-29T13:30").astype("datetime64[s]").astype(float)]))
    parts = dict(zip(column.features, row.tolist(), strict=True))
    assert parts["at: year"] == 2024 and parts["at: Thursday"] == 1 and parts["at: Friday"] == 0
    assert parts["at: time of day"] == 13.5 / 24 and parts["at has no value"] == 0
    assert parts["at: month sine"] == pytest.approx(np.sin(2 * np.pi / 12))
    assert parts["at: day cosine"] == pytest.approx(np.cos(2 * np.pi * 28 / 31))
    assert parts["at: hour sine"] == pytest.approx(np.sin(2 * np.pi * 13 / 24))
    assert column.shown(row) == "2024-02-29 13:30:00"
