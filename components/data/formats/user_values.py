"""Values that a user's function returns, as arrays or texts: tensors, lists, DataFrames, images, Datasets."""

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from torchmill.components.data.formats.frames import array_of, check_frame
from torchmill.components.errors import UserError
from torchmill.components.reading import pictures
from torchmill.components.reading.pictures import Channels, Picture, Traits, fitted, scaled
from torchmill.components.reading.rules import TOP, ReadingRules
from torchmill.components.reading.texts import read_text
from torchmill.components.user_code.importing import first_hand
from torchmill.components.wording import count

logger = logging.getLogger("torchmill")

SMALLEST_IMAGE = 8
"""Smallest side, in pixels, of fractions that look like an image."""

SHAPES = 'Give (inputs, labels), a Dataset of (input, label) items, or {"train": …, "test": …} of these.'
"""Remedy for values of the wrong shape."""


class Decoded(NamedTuple):
    """A decoded picture, with the facts that its header told."""

    traits: Traits
    picture: Picture


@dataclass(frozen=True)
class Pictures:
    """Decoded pictures, which are not yet arrays: channels and depth are decided over all splits."""

    pictures: list[Decoded]

    def __len__(self) -> int:
        return len(self.pictures)


class TextFiles(list[str]):
    """Texts of whole files."""


Values = np.ndarray | list[str] | Pictures
"""Numbers, with samples first; a text per sample; or a picture per sample."""


def read_pair(part: Any, place: str) -> tuple[Values, np.ndarray | list[str], tuple[str, ...]]:
    """Return inputs, labels and names of columns, if any, of a pair or a Dataset.

    Args:
        part: value of one split from the user's function.
        place: name of the split, for errors.

    Raises:
        UserError: it is neither, it is empty, or inputs and labels differ in number.
    """
    part = _loaded(part, place)
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
    values, truth = opened_values(inputs, f"{place} inputs"), opened_values(labels, f"{place} labels", are_labels=True)
    assert not isinstance(truth, Pictures)
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


def _loaded(part: Any, place: str) -> Any:
    """Return the samples of a DataLoader; anything else as it is."""
    if not all(hasattr(part, name) for name in ("dataset", "sampler", "batch_sampler", "collate_fn")):
        return part
    sampler = part.sampler
    kind = type(sampler).__name__
    if kind == "SubsetRandomSampler":
        indices = sorted(sampler.indices)
        return [part.dataset[index] for index in indices]
    if kind == "SequentialSampler" or (kind == "RandomSampler" and not sampler.replacement):
        if part.batch_size is not None:
            logger.info("%s is a DataLoader: the samples of its dataset are read, in their order", place)
            return part.dataset
        kind = type(part.batch_sampler).__name__ if part.batch_sampler else "batch_size=None"
    raise UserError(
        f"{place} is a DataLoader with {kind}, which decides on its samples.", "Return the Dataset with these samples."
    )


def _items(dataset: Any, place: str) -> tuple[list[Any], list[Any]]:
    """Read all items of a Dataset, one by one."""
    if isinstance(dataset, str | bytes | int | float | np.ndarray) or hasattr(dataset, "detach") or dataset is None:
        raise UserError(f"{place} is {kind_of(dataset)}, and no pair or Dataset.", SHAPES)
    inputs, labels = [], []
    number = -1
    try:
        if hasattr(dataset, "__len__") and hasattr(dataset, "__getitem__"):
            # By index: a Dataset with a length need not raise IndexError at its end.
            items: Iterable[Any] = (dataset[index] for index in range(len(dataset)))
        elif hasattr(dataset, "__getitem__") and not hasattr(dataset, "__iter__"):
            # Python would count up until an IndexError, which may never come.
            raise UserError(
                f"{place} is {kind_of(dataset)} with no __len__: its number of items can't be known.",
                "Give it a __len__ beside its __getitem__, or an __iter__ that ends.",
            )
        else:
            items = iter(dataset)
        for number, item in enumerate(items):
            if not isinstance(item, tuple | list) or len(item) != 2:
                raise UserError(f"{place}: item {number} is {kind_of(item)}, not a pair (input, label).", SHAPES)
            inputs.append(_item(item[0]))
            labels.append(_item(item[1]))
    except UserError:
        raise
    except (Exception, SystemExit) as error:
        if number < 0 and isinstance(error, TypeError) and not hasattr(dataset, "__getitem__"):
            raise UserError(f"{place} is {kind_of(dataset)}, and no pair or Dataset.", SHAPES) from error
        raise UserError(f"{place}: item {number + 1} failed: {first_hand(error)}") from error
    return inputs, labels


def _item(value: Any) -> Any:
    """Return a copy of an input or a label as a numpy or Python value: a Dataset may reuse its memory."""
    if hasattr(value, "detach"):
        return np.array(value.detach().cpu().numpy())
    if hasattr(value, "getbands"):  # an image of Pillow
        return _picture(value)
    return np.array(value) if isinstance(value, np.ndarray) else value


def _picture(image: Image.Image) -> Decoded:
    """Decode an image of the user's as image_folder and predict do."""
    if refusal := pictures.refusal(image, pictures.PILLOWS_LIMIT):
        raise UserError(f"An image {refusal}.", "Convert it to 8 or 16 bits.")
    return Decoded(pictures.traits(image), pictures.decoded(image))


def _file(file: Path) -> Any:
    """Read a file as image_folder, text_folder and predict do."""
    if file.suffix.lower() == ".txt":
        return read_text(file)
    if file.suffix.lower() not in pictures.SUFFIXES:
        raise UserError(f"{file} is neither an image nor a text by its name.", "Return its content.")
    with Image.open(file) as image:
        return _picture(image)


def name_files(values: Sequence[Any]) -> bool:
    """Return True for names of image files; the first has to exist."""
    return (
        len(values) > 0
        and all(isinstance(value, str) and value.lower().endswith(tuple(pictures.SUFFIXES)) for value in values)
        and Path(values[0]).expanduser().is_file()
    )


def _opened(values: list[Any], place: str) -> Pictures | TextFiles | list[Any]:
    """Return pictures or texts for files and images; other values as they are."""
    are_files = any(isinstance(value, Path) for value in values)
    if name_files(values):
        logger.info("%s are names of image files, which are read", place)
        values, are_files = [Path(value).expanduser() for value in values], True
    opened: list[Any] = []
    for number, value in enumerate(values):
        try:
            opened.append(_file(value) if isinstance(value, Path) else _item(value))
        except (OSError, UserError) as error:
            raise UserError(f"{place}: number {number} can't be read: {error}") from None
    if are_files and all(isinstance(value, str) for value in opened):
        return TextFiles(opened)
    are_pictures = [isinstance(value, Decoded) for value in opened]
    if not any(are_pictures):
        return opened
    if not all(are_pictures):
        number = are_pictures.index(False)
        raise UserError(f"{place}: number {number} is {kind_of(opened[number])}, and others are images.")
    return Pictures(opened)


def opened_values(values: Any, place: str, are_labels: bool = False) -> Values:
    """Return numbers as one array, texts as a list, or pictures."""
    if hasattr(values, "to_numpy") and hasattr(values, "columns"):
        check_frame(values, place)
    if hasattr(values, "detach"):
        values = values.detach().cpu()
        # numpy has no bfloat16
        values = values.float().numpy() if str(values.dtype) == "torch.bfloat16" else values.numpy()
    elif hasattr(values, "to_numpy"):
        values = array_of(values)
    if isinstance(values, list | tuple):
        opened = list(values) if are_labels else _opened(list(values), place)
        if isinstance(opened, Pictures | TextFiles):
            return opened
        if all(isinstance(value, str) for value in opened):
            return opened
        values = _stack([_item(value) for value in opened], place)
    if not isinstance(values, np.ndarray):
        raise UserError(f"{place} are {kind_of(values)}.", "Give an array, a tensor or a list.")
    if values.dtype.kind in "OU" and values.ndim == 1:
        if all(isinstance(value, str) for value in values):
            return [str(value) for value in values]
        if missing := [number for number, value in enumerate(values) if value is None or value != value]:
            raise UserError(
                f"{place}: {len(missing):,} of {len(values):,} have no value; the first is number {missing[0]}.",
                "Fill them in or leave these samples out.",
            )
    if values.dtype.kind not in "biuf" or not values.ndim:
        parts = "Give their magnitude (numpy.abs), or real and imaginary parts side by side."
        remedy = parts if values.dtype.kind == "c" else "Give numbers or texts."
        raise UserError(f"{place} are {kind_of(values)}.", remedy)
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
            raise UserError(f"{place}: number {number} is {kind_of(value)}.", "Give numbers, or texts alone.")
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


def as_images(values: Pictures, channels: Channels, rules: ReadingRules, place: str) -> np.ndarray:
    """Return pictures as uint8 NCHW.

    Raises:
        UserError: their sizes differ.
    """
    sizes = [traits.size for traits, _ in values.pictures]
    for number, size in enumerate(sizes):
        if size != sizes[0]:
            raise UserError(
                f"{place} inputs: number {number} is {size[0]}x{size[1]} pixels, and number 0 {sizes[0][0]}x"
                f"{sizes[0][1]}.",
                "Resize them to one size; image_folder does so for files.",
            )
    width, height = sizes[0]
    return np.stack([fitted(picture, (channels, height, width), rules) for _, picture in values.pictures])


def as_inputs(values: Values, place: str, top: int = TOP) -> np.ndarray:
    """Return images as uint8 NCHW, or numbers as float32 (N, F, …).

    Args:
        top: level of uint16 images that becomes 255.
    """
    if not isinstance(values, np.ndarray):
        raise UserError(f"{place} has {'texts' if isinstance(values, list) else 'pictures'}, and train has numbers.")
    if values.dtype == np.uint16 and values.ndim in (3, 4):
        values = scaled(values, top)
    if values.dtype == np.uint8 and values.ndim in (3, 4):
        return as_pixels(values, place)
    if values.dtype.kind in "iu" and values.ndim > 2:
        raise UserError(f"{place} inputs are {kind_of(values)}.", "Give uint8 for images, float32 for numbers.")
    with np.errstate(over="ignore"):
        numbers = (values[:, None] if values.ndim == 1 else values).astype(np.float32)
    if rows := np.flatnonzero(~np.isfinite(numbers.reshape(len(numbers), -1)).all(1)).tolist():
        samples = count(len(rows), "sample holds", "samples hold")
        raise UserError(
            f"{place} inputs: {samples} values that are no finite numbers; the first is "
            f"number {rows[0]}{_odd_value(values[rows[0]], numbers[rows[0]])}.",
            "Fill them in, scale them, or leave these samples out.",
        )
    if place.endswith("train") and (pixels := _pixels_of(values)):
        logger.warning(
            "%s: %s of the shape %s are taken as numbers, not as images. If they are images, give uint8 pixels, as "
            "by %s: then networks for images take them, augmentation works, and the exported network takes pixels.",
            *(place, values.dtype, values.shape[1:], pixels),
        )
    return numbers


def _odd_value(values: np.ndarray, numbers: np.ndarray) -> str:
    """Return the place and the value of the first number that float32 can't hold, in words."""
    position = int(np.flatnonzero(~np.isfinite(np.ravel(numbers)))[0])
    return f", with {np.ravel(values)[position]:g} as feature {position}"


def as_pixels(images: np.ndarray, place: str) -> np.ndarray:
    """Return images as NCHW, (N, H, W) with one channel."""
    return images[:, None] if images.ndim == 3 else channels_first(images, place)


def channels_first(images: np.ndarray, place: str) -> np.ndarray:
    """Return images as NCHW. Where both layouts fit, the one with the larger shorter side is meant."""
    channels = (1, 3, 4)
    first, height, last = images.shape[1:]
    is_last = last in channels and (first not in channels or min(first, height) > min(height, last))
    if last in channels and first in channels and place.endswith("train"):
        side = images.shape[1:3] if is_last else images.shape[2:]
        logger.warning(
            "%s: images of the shape %s are taken as %d channels%s of %dx%d pixels (height, width)",
            *(place, images.shape[1:], last if is_last else first, ", the last side," * is_last, *side),
        )
    return images.transpose(0, 3, 1, 2) if is_last else images


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


def kind_of(value: Any) -> str:
    """Return a value's type in a few words."""
    if isinstance(value, np.ndarray):
        return f"{value.dtype} {value.shape}"
    if value is None:
        return "nothing (None)"
    if isinstance(value, tuple | list):
        return f"a {type(value).__name__} of {len(value)}"
    return f"a {type(value).__name__}"
