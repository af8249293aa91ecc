"""Inputs of a prediction from the user's own function, ``file.py:function``."""

from pathlib import Path
from typing import Any

import numpy as np

from torchmill.components.data.content import row_digests, text_digests
from torchmill.components.data.formats.user_function import call_own, inputs_to_answer
from torchmill.components.data.formats.user_values import Pictures, as_images, as_inputs
from torchmill.components.errors import UserError, nearest
from torchmill.components.onnx_model.model import OnnxModel
from torchmill.components.prediction.inputs import Inputs, Unreadable


def is_own_function(place: Path) -> bool:
    """Return True for ``file.py:function``."""
    file, _, function = str(place).rpartition(":")
    return file.endswith(".py") and bool(function)


def own_inputs(model: OnnxModel, place: Path) -> Inputs:
    """Return the inputs that a function gives: those of its test split, if it gives splits; labels are left out.

    Raises:
        UserError: the function fails, or its inputs are of another kind or shape than the model's.
    """
    file, _, function = str(place).rpartition(":")
    split, values, columns = inputs_to_answer(call_own(file, function, {}), str(place))
    names = [" ".join(filter(None, (str(place), split, f"item {row}"))) for row in range(len(values))]
    if model.field.is_sequence:
        if not isinstance(values, list):
            raise UserError(f"{place} gives numbers, and the model takes texts.", "Return a list of strings.")
        texts = [text if text.strip() else Unreadable("is empty") for text in values]
        return Inputs(names, [f"{digest:x}" for digest in text_digests(values).tolist()], texts.__getitem__)
    arrays = _arrays(model, values, columns, str(place))
    if arrays.shape[1:] != model.shape:
        raise UserError(f"{place} gives inputs of the shape {arrays.shape[1:]}, and the model takes {model.shape}.")
    if arrays.dtype != (np.uint8 if model.field.is_picture else np.float32):
        raise UserError(f"{place} gives {arrays.dtype}, and the model takes {model.field.samples}.")
    return Inputs(names, [f"{digest:x}" for digest in row_digests(arrays).tolist()], arrays.__getitem__)


def _arrays(model: OnnxModel, values: Any, columns: tuple[str, ...], place: str) -> np.ndarray:
    """Return inputs as the model takes them: uint8 (N, C, H, W), or float32 (N, F, …)."""
    if isinstance(values, Pictures):
        return as_images(values, 1 if model.shape[0] == 1 else 3, model.rules, place)
    if not (model.columns and columns and isinstance(values, np.ndarray)):
        return as_inputs(values, place, model.rules.top)
    for name in model.columns.names:
        if name not in columns:
            raise UserError(f"{place} has no column '{name}'.", nearest(name, columns))
    raw = {name: values[:, at] for at, name in enumerate(columns)}
    blocks = [column.encode(raw[column.name]) for column in model.columns.columns]
    return np.concatenate(blocks, 1).astype(np.float32).reshape(-1, *model.shape)
