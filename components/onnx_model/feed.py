"""Inputs of a data set as an ONNX model takes them, by name. Imports no torch."""

from collections.abc import Mapping, Sequence

import numpy as np

from torchmill.components.encoding.columns import CATEGORICAL, NUMERIC, Columns
from torchmill.components.onnx_model import names
from torchmill.components.onnx_model.bare import filled, fixed_sizes, prepared_inputs

Sizes = Mapping[str, Sequence[int | str | None]]
"""Sizes of each of a model's inputs by its name; free ones are a name or None."""

CELLS = frozenset({NUMERIC, CATEGORICAL})
"""Inputs of models that take the cells of a table."""


def takes_cells(inputs: Sequence[str] | Sizes) -> bool:
    """Return whether a model, by the names of its inputs, takes the cells of a table."""
    return bool(inputs) and CELLS.issuperset(inputs)


def fed(inputs: np.ndarray, metadata: Mapping[str, str], sizes: Sizes) -> dict[str, np.ndarray]:
    """Return inputs as a model takes them, filled up to its fixed sizes.

    Args:
        inputs: inputs of a data set: pixels (N, C, H, W), token ids (N, L) or features (N, F, …).
        metadata: the model's.
    """
    if takes_cells(sizes):
        return Columns.from_json(metadata[names.COLUMNS]).model_inputs(inputs)
    ((name, sides),) = sizes.items()
    return {name: filled(prepared_inputs(inputs, metadata), fixed_sizes(sides))}
