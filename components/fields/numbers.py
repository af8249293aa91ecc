"""Numbers: float32 (N, F, …), the features first, for example the cells of a table."""

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING, Any

import numpy as np

from torchmill.components.encoding.columns import CATEGORICAL, FILE, NUMERIC, Columns
from torchmill.components.fields import CardCode, Sums
from torchmill.components.fields._cells import code_of_cells
from torchmill.components.reading.rules import USUAL, ReadingRules
from torchmill.components.reading.tables import MISSING

if TYPE_CHECKING:
    from onnx import ModelProto
    from torch import Tensor

    from torchmill.components.batches.field_refs import FieldKind
    from torchmill.components.data.samples import Samples
    from torchmill.components.encoding.vocabulary import Vocabulary

NAME = "numbers"
ARGUMENTS = ("in_features",)


ROW = """\
columns = json.loads(metadata["columns"])
missing = $missing


def read(row):  # a dictionary of cells
    numbers = []
    for column in columns:
        name, cell = column["name"], row[column["name"]].strip()
        categories = column.get("categories", [])
        if cell.lower() in missing and cell not in categories:
            raise ValueError(f"no value in {name}")
        if categories:  # a 0 or 1 for each
            numbers += [cell == category for category in categories]
            if cell not in categories:
                print(f"{name}: {cell} was not met in training", file=sys.stderr)
        else:
            number = float(cell.replace("\\u2212", "-"))
            if "_" in cell or not abs(number) <= $largest:
                raise ValueError(f"{cell} is no number in {name}")
            numbers.append(number - column.get("offset", 0))
    return np.array(numbers, np.float32).reshape$shape


text = unicodedata.normalize("NFC", Path(sys.argv[1]).read_bytes().decode("utf-8-sig"))
delimiter = max(",;\\t", key=text.partition("\\n")[0].count)
"""
"""Python that reads rows of a table as ``predict`` does."""

ROWS = 'csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter)'
"""Expression of the rows."""

ARRAYS = """\
def read(sample):
    return np.asarray(sample, np.float32).reshape$shape
"""


class Numbers:
    name = NAME
    samples = "samples"
    shape_words = "samples of (features, …)"
    pool_over = "all other dimensions"
    feature_word = "feature"

    is_picture, is_sequence, can_mix = False, False, True
    padding = None
    unit = 1.0

    batch_name: str = "features"
    batch_kind: "FieldKind" = "values"
    onnx_input, onnx_type = "features", "tensor(float)"
    bare_input = "features"
    dynamic_axes = ("batch",)

    def arguments(self, shape: tuple[int, ...], vocabulary_size: int) -> dict[str, int]:
        return {"in_features": math.prod(shape), "in_channels": shape[0]}

    # Data set

    def recognizes(self, inputs: np.ndarray, has_vocabulary: bool) -> bool:
        return inputs.dtype != np.uint8 and not has_vocabulary

    def faults(self, inputs: np.ndarray, vocabulary_size: int | None) -> list[str]:
        if inputs.dtype != np.float32 or inputs.ndim < 2 or 0 in inputs.shape:
            return [f"inputs are {inputs.dtype} {inputs.shape}, not float32 (N, F, …)"]
        if not np.isfinite(inputs).all():
            return [f"inputs hold {int((~np.isfinite(inputs)).sum())} values that are no finite numbers"]
        return []

    def statistics(self, inputs: np.ndarray) -> tuple[tuple[float, ...], tuple[float, ...]]:
        axes = (0, *range(2, inputs.ndim))
        mean, std = inputs.mean(axes, np.float64), inputs.std(axes, np.float64)
        return tuple(map(float, mean)), tuple(map(float, std))

    def read_encoding(self, folder: Path) -> Columns | None:
        file = folder / FILE
        return Columns.from_json(file.read_text(encoding="utf-8")) if file.is_file() else None

    def blank(self, shape: tuple[int, ...], samples: int) -> "Tensor":
        import torch

        return torch.zeros(samples, *shape)

    # Evaluation

    def measures(self, samples: "Samples") -> Iterator[tuple[str, str, np.ndarray]]:
        yield from ()

    # ONNX model

    def describe_input(
        self, shape: tuple[int, ...], columns: Columns | None = None, rules: ReadingRules = USUAL
    ) -> tuple[str, str]:
        if columns and columns.take_gaps:
            return _describe_cells(columns), "gaps filled, categories and dates encoded, standardised"
        return _describe_features(shape, columns is not None), "standardised"

    def describe_bare_input(
        self, shape: tuple[int, ...], columns: Columns | None = None, rules: ReadingRules = USUAL
    ) -> tuple[str, str]:
        described = _describe_features(shape, columns is not None)
        encoded = ", gaps filled, and categories and dates encoded, as the metadata's columns say"
        return described + encoded * bool(columns and columns.take_gaps), "standardised"

    def preprocessing(
        self, shape: tuple[int, ...], vocabulary_size: int, rules: ReadingRules = USUAL, columns: Columns | None = None
    ) -> "ModelProto":
        if columns and columns.take_gaps:
            from torchmill.components.onnx_graph.tables import cells

            return cells(columns)
        from torchmill.components.onnx_graph.numbers import finite
        from torchmill.components.onnx_graph.refusals import saying

        return saying(finite.to_model_proto(), "features must be finite numbers, and some are nan or infinite")

    def card_code(self, shape: tuple[int, ...], rules: ReadingRules, columns: Columns | None) -> CardCode:
        if not columns:
            code = Template(ARRAYS).substitute(shape=shape)
            return CardCode(code, "enumerate(np.load(sys.argv[1]), 1)", "samples.npy")
        if columns.take_gaps:
            return CardCode(
                code_of_cells(columns), f"enumerate((row for row in {ROWS} if any(row.values())), 1)", "table.csv"
            )
        code = Template(ROW).substitute(missing=sorted(MISSING), largest=float(np.finfo(np.float32).max), shape=shape)
        return CardCode(code, f"enumerate({ROWS}, 1)", "table.csv")

    # Predictions

    def batch(self, samples: Sequence[Any], vocabulary: "Vocabulary | None") -> np.ndarray:
        return np.stack(samples)

    def batch_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        return shape

    def sums(self, inputs: np.ndarray, columns: Columns | None) -> Sums:
        flat = inputs.reshape(len(inputs), -1).astype(np.float64)
        spans = columns.category_spans if columns else {}
        return {
            "values": len(flat),
            "sum": flat.sum(0).tolist(),
            "squares": (flat**2).sum(0).tolist(),
            "unknown_categories": [int((~flat[:, span].any(1)).sum()) for span in spans.values()],
        }

    def drift(self, total: Mapping[str, Any]) -> dict[str, Any]:
        return {}


def _describe_features(shape: tuple[int, ...], has_columns: bool) -> str:
    takes = f"float32 (batch, {', '.join(map(str, shape))})"
    order = ", the columns in their order; one of categories is a 0 or 1 for each of these, "
    order += "of one with an offset that is subtracted first"
    return takes + order * has_columns


def _describe_cells(columns: Columns) -> str:
    """Return the inputs of a model that takes the cells of a table, in words."""
    numbers, categories = columns.of_numbers, columns.of_categories
    dates = [column.name for column in numbers if column.is_date]
    times = f", dates as Unix times in seconds ({', '.join(dates)})" if dates else ""
    words = []
    if numbers:
        names = ", ".join(column.name for column in numbers)
        words.append(f"{NUMERIC}: float64 (batch, {len(numbers)}), nan without a value{times}: {names}")
    if categories:
        names = ", ".join(column.name for column in categories)
        words.append(f"{CATEGORICAL}: texts (batch, {len(categories)}), empty without a value: {names}")
    return "; ".join(words)
