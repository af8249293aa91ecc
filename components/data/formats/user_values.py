"""Values that a user's function returns, as arrays or texts: tensors, lists, DataFrames, images, Datasets."""

import logging
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from torchmill.components.errors import UserError
from torchmill.components.user_code.importing import first_hand

logger = logging.getLogger("torchmill")

SMALLEST_IMAGE = 8
"""Smallest side, in pixels, of fractions that look like an image."""

SHAPES = 'Give (inputs, labels), a Dataset of (input, label) items, or {"train": …, "test": …} of these.'
"""Remedy for values of the wrong shape."""

Values = np.ndarray | list[str]
"""Numbers, with samples first; or a text per sample."""


def read_pair(part: Any, place: str) -> tuple[Values, Values, tuple[str, ...]]:
    """Return inputs, labels and names of columns, if any, of a pair or a Dataset.

    Args:
        part: value of one split from the user's function.
        place: name of the split, for errors.

    Raises:
        UserError: it is neither, it is empty, or inputs and labels differ in number.
    """
    tensors = getattr(part, "tensors", None)  # a TensorDataset: no need to read it item by item
    if isinstance(tensors, tuple) and len(tensors) == 2:
        part = tensors
    is_pair = isinstance(part, tuple) or (
        isinstance(part, list) and len(part) == 2 and not any(isinstance(item, tuple) for item in part)
    )
    if is_pair and all(map(_holds_samples, part)):
        raise UserError(
            f"{place} is a tuple of {len(part)} data sets, not a pair of inputs and labels.",
            'Give splits by name: {"train": …, "test": …}, perhaps with "validation".',
        )
    if is_pair and len(part) != 2:
        raise UserError(f"{place} is a tuple of {len(part)}, not a pair of inputs and labels.", SHAPES)
    inputs, labels = (part[0], part[1]) if is_pair else _items(part, place)
    values, truth = _values(inputs, f"{place} inputs"), _values(labels, f"{place} labels")
    if len(values) != len(truth):
        raise UserError(
            f"{place} has {len(values):,} inputs and {len(truth):,} labels.", "Give one label for each input."
        )
    if not len(values):
        raise UserError(f"{place} is empty.")
    columns: Any = getattr(inputs, "columns", ()) if hasattr(inputs, "to_numpy") else ()  # a DataFrame has both
    return values, truth, tuple(map(str, columns))


def _holds_samples(value: Any) -> bool:
    """Return True for a Dataset or a pair of inputs and labels, False for inputs or labels alone."""
    if isinstance(value, tuple):
        sizes = [len(item) for item in value if hasattr(item, "__len__") and not isinstance(item, str)]
        return len(value) == len(sizes) == 2 and sizes[0] == sizes[1]
    arrays = list | str | bytes | Mapping | np.ndarray
    is_array = isinstance(value, arrays) or hasattr(value, "detach") or hasattr(value, "to_numpy")
    return not is_array and hasattr(value, "__getitem__")


def _items(dataset: Any, place: str) -> tuple[list[Any], list[Any]]:
    """Read all items of a Dataset, one by one."""
    if isinstance(dataset, str | bytes | int | float | np.ndarray) or hasattr(dataset, "detach") or dataset is None:
        raise UserError(f"{place} is {_kind_of(dataset)}, and no pair or Dataset.", SHAPES)
    inputs, labels = [], []
    number = -1
    try:
        if hasattr(dataset, "__len__") and hasattr(dataset, "__getitem__"):
            # By index: a Dataset with a length need not raise IndexError at its end.
            items: Iterable[Any] = (dataset[index] for index in range(len(dataset)))
        elif hasattr(dataset, "__getitem__") and not hasattr(dataset, "__iter__"):
            # Python would count up until an IndexError, which may never come.
            raise UserError(
                f"{place} is {_kind_of(dataset)} with no __len__: its number of items can't be known.",
                "Give it a __len__ beside its __getitem__, or an __iter__ that ends.",
            )
        else:
            items = iter(dataset)
        for number, item in enumerate(items):
            if not isinstance(item, tuple | list) or len(item) != 2:
                raise UserError(f"{place}: item {number} is {_kind_of(item)}, not a pair (input, label).", SHAPES)
            inputs.append(_item(item[0]))
            labels.append(_item(item[1]))
    except UserError:
        raise
    except (Exception, SystemExit) as error:
        if number < 0 and isinstance(error, TypeError) and not hasattr(dataset, "__getitem__"):
            raise UserError(f"{place} is {_kind_of(dataset)}, and no pair or Dataset.", SHAPES) from error
        raise UserError(f"{place}: item {number + 1} failed: {first_hand(error)}") from error
    return inputs, labels


def _item(value: Any) -> Any:
    """Return a copy of an input or a label as a numpy or Python value: a Dataset may reuse its memory."""
    if hasattr(value, "detach"):
        return np.array(value.detach().cpu().numpy())
    if hasattr(value, "getbands"):  # an image of Pillow
        is_grey = value.mode in ("1", "L", "LA")
        return np.array(value.convert("L" if is_grey else "RGB"))
    return np.array(value) if isinstance(value, np.ndarray) else value


def _values(values: Any, place: str) -> Values:
    """Return numbers as one array, or texts as a list."""
    if hasattr(values, "detach"):
        values = values.detach().cpu()
        # numpy has no bfloat16
        values = values.float().numpy() if str(values.dtype) == "torch.bfloat16" else values.numpy()
    elif hasattr(values, "to_numpy"):
        values = values.to_numpy()
    if isinstance(values, list | tuple):
        if all(isinstance(value, str) for value in values):
            return list(values)
        values = _stack([_item(value) for value in values], place)
    if not isinstance(values, np.ndarray):
        raise UserError(f"{place} are {_kind_of(values)}.", "Give an array, a tensor or a list.")
    if values.dtype.kind in "OU" and values.ndim == 1 and all(isinstance(value, str) for value in values):
        return [str(value) for value in values]
    if values.dtype.kind not in "biuf" or not values.ndim:
        raise UserError(f"{place} are {_kind_of(values)}.", "Give numbers or texts.")
    return values


def _stack(values: list[Any], place: str) -> np.ndarray:
    """Stack arrays of one shape; grey images among coloured ones become coloured."""
    arrays = []
    for number, value in enumerate(values):
        try:
            arrays.append(np.asarray(value))
        except ValueError:
            raise UserError(f"{place}: number {number} is a list of lists of different lengths.") from None
        if arrays[-1].dtype.kind not in "biuf":
            raise UserError(f"{place}: number {number} is {_kind_of(value)}.", "Give numbers, or texts alone.")
    shapes = {array.shape for array in arrays}
    if {len(shape) for shape in shapes} == {2, 3} and all(shape[-1] == 3 for shape in shapes if len(shape) == 3):
        arrays = [np.repeat(array[..., None], 3, 2) if array.ndim == 2 else array for array in arrays]
    for number, array in enumerate(arrays):
        if array.shape != arrays[0].shape:
            raise UserError(
                f"{place}: number {number} has the shape {array.shape}, number 0 {arrays[0].shape}.",
                "Resize or pad them to one shape.",
            )
    return np.stack(arrays) if arrays else np.empty(0)


def as_inputs(values: Values, place: str) -> np.ndarray:
    """Return images as uint8 NCHW, or numbers as float32 (N, F, …)."""
    if isinstance(values, list):
        raise UserError(f"{place} has texts, and train has numbers.")
    if values.dtype == np.uint8 and values.ndim in (3, 4):
        if values.ndim == 3:
            return values[:, None]
        channels = (1, 3, 4)
        is_channels_last = values.shape[3] in channels and values.shape[1] not in channels
        return values.transpose(0, 3, 1, 2) if is_channels_last else values
    if values.dtype.kind in "iu" and values.ndim > 2:
        raise UserError(f"{place} inputs are {_kind_of(values)}.", "Give uint8 for images, float32 for numbers.")
    numbers = (values[:, None] if values.ndim == 1 else values).astype(np.float32)
    if rows := np.flatnonzero(~np.isfinite(numbers.reshape(len(numbers), -1)).all(1)).tolist():
        raise UserError(
            f"{place} inputs: {len(rows):,} samples hold values that are no finite numbers; the first is number "
            f"{rows[0]}.",
            "Fill them in or leave these samples out.",
        )
    if place.endswith("train") and (pixels := _pixels_of(values)):
        logger.warning(
            "%s: %s of the shape %s are taken as numbers, not as images. If they are images, give uint8 pixels, as "
            "by %s: then networks for images take them, augmentation works, and the exported network takes pixels.",
            *(place, values.dtype, values.shape[1:], pixels),
        )
    return numbers


def _pixels_of(values: np.ndarray) -> str:
    """Return code that turns fractions into pixels; empty if they don't look like images."""
    if values.dtype.kind != "f" or values.ndim not in (3, 4):
        return ""
    channels = (1, 3, 4)
    sides = values.shape[1:] if values.ndim == 3 else values.shape[2:] if values.shape[1] in channels else None
    sides = sides or (values.shape[1:3] if values.shape[3] in channels else (1, 1))
    if min(sides) < SMALLEST_IMAGE or max(sides) > 2 * min(sides):
        return ""
    low, high = float(values.min()), float(values.max())
    if low >= 0 and high > 1:
        return "images.astype('uint8')" if high <= 255 else ""
    if max(-low, high) > 1:
        return "scaling them to 0…255"
    return "(images * 255).astype('uint8')" if low >= 0 else "(images * 127.5 + 127.5).astype('uint8')"


def _kind_of(value: Any) -> str:
    """Return a value's type in a few words."""
    if isinstance(value, np.ndarray):
        return f"{value.dtype} {value.shape}"
    if value is None:
        return "nothing (None)"
    if isinstance(value, tuple | list):
        return f"a {type(value).__name__} of {len(value)}"
    return f"a {type(value).__name__}"
