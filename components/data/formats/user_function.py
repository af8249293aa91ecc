"""Data that the user's own function gives: ``--data file.py:function``.

The function gives a pair (inputs, labels) of arrays, tensors or lists; or a Dataset of (input, label) items; or a
mapping with "train" and, where there are such, "validation" and "test", each of these a pair or a Dataset.
"""

import hashlib
import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any, get_args

import numpy as np

from torchmill.components import tasks
from torchmill.components.data.formats.class_folders import SPLIT_NAMES
from torchmill.components.data.formats.labels import Labels, read_labels
from torchmill.components.data.formats.texts import Texts, complete, encode_splits, usual_level
from torchmill.components.data.splits import Split, Splits, cut
from torchmill.components.encoding.columns import Columns
from torchmill.components.encoding.vocabulary import Level
from torchmill.components.errors import UserError, nearest
from torchmill.components.user_code.call import call
from torchmill.components.user_code.importing import first_hand, import_from

logger = logging.getLogger("torchmill")

TEST_FRACTION = 0.2
TEXT_VALIDATION_FRACTION = 0.1
"""The vocabulary must not know validation texts, so a text's validation split can't be left to the run."""
MAX_LENGTH = 256
"""Tokens of a text that count, where the function does not say otherwise."""
SMALLEST_IMAGE = 8
"""Pixels each way that fractions have at least which look like an image."""
SPLITS = ("train", "validation", "test")
OPTIONS = ("classes", "task", "level", "lower_case", "max_length")

Values = np.ndarray | list[str]
"""Numbers or texts, one of each sample first."""


def load_own(file: str, function: str, args: Mapping[str, Any]) -> Splits:
    """Call the user's function and make splits of what it gives.

    A single data set is split: a fifth for test, the same share of each class; equal inputs stay together.
    Inputs:

    - uint8 (N, C, H, W), (N, H, W), or (N, H, W, C) with 1, 3 or 4 channels, and pictures of Pillow: images;
    - other numbers (N, F, …), and whole numbers (N, F): float32 numbers, which a DataFrame gives names;
    - texts: tokens. These are characters where half of the training texts have at most two words, else words;
      "level", "lower_case" and "max_length" beside "train" say otherwise.

    Labels: whole numbers, yes or no, and texts are classes; fractions (N,) or (N, K) are targets of a regression; 0 and
    1 as (N, K) are labels of which several may hold. "task" beside "train" says otherwise, "classes" names them.

    Raises:
        UserError: there is no such function, it fails, or what it gives is none of this.
    """
    place = f"{file}:{function}"
    made = call(_function(file, function), args, place, "--data.args")
    parts, options = _parts(made, place)
    read = {split: _read_pair(part, f"{place}: {split}") for split, part in parts.items()}
    inputs = {split: values for split, (values, _, _) in read.items()}
    labels = read_labels({split: values for split, (_, values, _) in read.items()}, place, **_label_options(options))
    if isinstance(inputs["train"], list):
        return _texts(inputs, labels, options, place)
    names = _names({split: held for split, (_, _, held) in read.items()}, place)
    made = {split: _as_inputs(values, f"{place}: {split}") for split, values in inputs.items()}
    splits = _arrays(made, labels, place)
    return replace(splits, columns=Columns.called(names)) if names else splits


def _function(file: str, name: str) -> Callable[..., Any]:
    module = import_from(file)
    found = getattr(module, name, None)
    if found is None:
        known = [key for key, value in vars(module).items() if callable(value) and not key.startswith("_")]
        raise UserError(f"{file} has no function '{name}'.", nearest(name, known))
    if not callable(found):
        raise UserError(f"'{name}' in {file} is a {type(found).__name__}, not a function.")
    return found


def _parts(made: Any, place: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Give the splits by name, and what was said beside them."""
    if not isinstance(made, Mapping):
        return {"train": made}, {}
    made = _with_our_names(made, place)
    for key in made:
        if key not in SPLITS + OPTIONS:
            raise UserError(f"{place} gives an unknown '{key}'.", nearest(str(key), SPLITS + OPTIONS))
    if made.get("train") is None:
        raise UserError(f"{place} gives no 'train'.", f"It gives {', '.join(map(str, made)) or 'an empty mapping'}.")
    parts = {split: made[split] for split in SPLITS if made.get(split) is not None}
    options = {option: made[option] for option in OPTIONS if made.get(option) is not None}
    _check_options(options, place)
    return parts, options


def _with_our_names(made: Mapping[str, Any], place: str) -> dict[str, Any]:
    """Call splits as we do: val and valid are validation, as in folders."""
    ours = {name: split for split, names in SPLIT_NAMES.items() for name in names}
    named: dict[str, Any] = {}
    for key, value in made.items():
        name = ours.get(key, key)
        if name in named:
            raise UserError(f"{place} gives '{name}' twice, once as '{key}'.", "Leave one of them out.")
        named[name] = value
    return named


def _check_options(options: Mapping[str, Any], place: str) -> None:
    for option, known in (("task", tasks.names()), ("level", get_args(Level))):
        if option in options and options[option] not in known:
            raise UserError(f"{place}: unknown {option} {options[option]!r}.", nearest(str(options[option]), known))
    length = options.get("max_length", 1)
    if not isinstance(length, int) or length < 1:
        raise UserError(f"{place}: max_length is {length!r}, not a whole number from 1.")


def _label_options(options: Mapping[str, Any]) -> dict[str, Any]:
    return {"task": options.get("task"), "classes": tuple(map(str, options.get("classes", ())))}


def _read_pair(part: Any, place: str) -> tuple[Values, Values, tuple[str, ...]]:
    """Give the inputs and the labels of a pair or of a Dataset, and the names of the inputs' columns, if they have."""
    tensors = getattr(part, "tensors", None)  # a TensorDataset, whose items need not be taken one by one
    if isinstance(tensors, tuple) and len(tensors) == 2:
        part = tensors
    pair = isinstance(part, tuple) or (
        isinstance(part, list) and len(part) == 2 and not any(isinstance(one, tuple) for one in part)
    )
    if pair and all(map(_holds_samples, part)):
        raise UserError(
            f"{place} is a tuple of {len(part)} data sets, not a pair of inputs and labels.",
            'Give splits by name: {"train": …, "test": …}, and "validation" where there is such.',
        )
    if pair and len(part) != 2:
        raise UserError(f"{place} is a tuple of {len(part)}, not a pair of inputs and labels.", SHAPES)
    inputs, labels = (part[0], part[1]) if pair else _items(part, place)
    values, truth = _values(inputs, f"{place} inputs"), _values(labels, f"{place} labels")
    if len(values) != len(truth):
        raise UserError(f"{place} has {len(values):,} inputs and {len(truth):,} labels.", "One label for each.")
    if not len(values):
        raise UserError(f"{place} is empty.")
    columns: Any = getattr(inputs, "columns", ()) if hasattr(inputs, "to_numpy") else ()  # a DataFrame has both
    return values, truth, tuple(map(str, columns))


def _names(named: Mapping[str, tuple[str, ...]], place: str) -> tuple[str, ...]:
    """Give the names of the columns, which are the same and in the same order wherever there are any."""
    train = named["train"]
    for name in train:
        if train.count(name) > 1:
            raise UserError(f"{place}: train has two columns called '{name}'.", "Rename one of them.")
    for split, names in named.items():
        if names and train and names != train:
            missing = [name for name in train if name not in names]
            if missing:
                raise UserError(
                    f"{place}: {split} has no column '{missing[0]}', as train has.", nearest(missing[0], names)
                )
            raise UserError(f"{place}: {split} has other columns than train, or in another order.", "Put them alike.")
    return train


def _holds_samples(one: Any) -> bool:
    """Tell whether it is a Dataset or a pair of inputs and labels, and not inputs or labels alone."""
    if isinstance(one, tuple):
        sizes = [len(held) for held in one if hasattr(held, "__len__") and not isinstance(held, str)]
        return len(one) == len(sizes) == 2 and sizes[0] == sizes[1]
    arrays = list | str | bytes | Mapping | np.ndarray
    known = isinstance(one, arrays) or hasattr(one, "detach") or hasattr(one, "to_numpy")
    return not known and hasattr(one, "__getitem__")


SHAPES = 'Give (inputs, labels), a Dataset of (input, label) items, or {"train": …, "test": …} of these.'


def _items(dataset: Any, place: str) -> tuple[list[Any], list[Any]]:
    """Take all items of a Dataset, one by one."""
    if isinstance(dataset, str | bytes | int | float | np.ndarray) or hasattr(dataset, "detach") or dataset is None:
        raise UserError(f"{place} is {_kind_of(dataset)}, and no pair or Dataset.", SHAPES)
    inputs, labels = [], []
    number = -1
    try:
        if hasattr(dataset, "__len__") and hasattr(dataset, "__getitem__"):
            # By number: what has a length need not stop by itself.
            items: Iterable[Any] = (dataset[index] for index in range(len(dataset)))
        elif hasattr(dataset, "__getitem__") and not hasattr(dataset, "__iter__"):
            # Python would count upwards until an IndexError, which need not come.
            raise UserError(
                f"{place} is {_kind_of(dataset)} with no __len__: how many items it has can't be known.",
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
    """An input or a label as numpy or Python has it; copied, for a Dataset may use its memory again."""
    if hasattr(value, "detach"):
        return np.array(value.detach().cpu().numpy())
    if hasattr(value, "getbands"):  # a picture of Pillow
        grey = value.mode in ("1", "L", "LA")
        return np.array(value.convert("L" if grey else "RGB"))
    return np.array(value) if isinstance(value, np.ndarray) else value


def _values(values: Any, place: str) -> Values:
    """Numbers as one array, texts as a list."""
    if hasattr(values, "detach"):
        values = values.detach().cpu()
        # numpy knows no bfloat16
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
    """One array of many of the same shape; grey pictures among coloured ones become coloured."""
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
                "All of one shape: resize or pad them.",
            )
    return np.stack(arrays) if arrays else np.empty(0)


def _as_inputs(values: Values, place: str) -> np.ndarray:
    """Images as uint8 NCHW, numbers as float32 (N, F, …)."""
    if isinstance(values, list):
        raise UserError(f"{place} has texts, and train has numbers.")
    if values.dtype == np.uint8 and values.ndim in (3, 4):
        if values.ndim == 3:
            return values[:, None]
        channels = (1, 3, 4)
        last = values.shape[3] in channels and values.shape[1] not in channels
        return values.transpose(0, 3, 1, 2) if last else values
    if values.dtype.kind in "iu" and values.ndim > 2:
        raise UserError(
            f"{place} inputs are {_kind_of(values)}.", "Give uint8 where they are images, float32 where they are not."
        )
    numbers = (values[:, None] if values.ndim == 1 else values).astype(np.float32)
    if wrong := np.flatnonzero(~np.isfinite(numbers.reshape(len(numbers), -1)).all(1)).tolist():
        raise UserError(
            f"{place} inputs: {len(wrong):,} samples hold values that are no finite numbers; the first is number "
            f"{wrong[0]}.",
            "Fill them in or leave these samples out.",
        )
    if place.endswith("train") and (pixels := _pixels_of(values)):
        logger.warning(
            "%s: %s of the shape %s are taken as numbers, not as images. Where they are images give uint8 pixels, as "
            "by %s: then networks for images take them, augmentation works, and the exported network takes pixels.",
            *(place, values.dtype, values.shape[1:], pixels),
        )
    return numbers


def _pixels_of(values: np.ndarray) -> str:
    """Say how fractions become the pixels that they seem to have been; nothing where they look like no images."""
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


def _arrays(inputs: dict[str, np.ndarray], labels: Labels, place: str) -> Splits:
    parts = {split: Split(values, labels.values[split]) for split, values in inputs.items()}
    if "test" not in parts:
        train = parts["train"]
        same = [hashlib.blake2b(row.tobytes(), digest_size=16).hexdigest() for row in train.inputs]
        kept, test = cut(train.labels, (TEST_FRACTION,), groups=same)
        if not len(test):
            raise UserError(f"{place} gives too few samples to cut any off for test.", "Give more, or a 'test' too.")
        told = "train " if len(inputs) > 1 else ""
        for split, rows in (("train", kept), ("test", test)):
            # A row in the prepared arrays would tell nobody which item it was.
            known = [f"{told}item {row}" for row in rows.tolist()]
            parts[split] = Split(train.inputs[rows], train.labels[rows], known)
    shapes = {split: part.inputs.shape[1:] for split, part in parts.items()}
    for split, shape in shapes.items():
        if shape != shapes["train"]:
            raise UserError(f"{place}: inputs of {split} have the shape {shape}, those of train {shapes['train']}.")
    return Splits(parts["train"], parts["test"], parts.get("validation"), labels.classes, labels.task, source=place)


def _texts(inputs: dict[str, Values], labels: Labels, options: Mapping[str, Any], place: str) -> Splits:
    parts = {}
    for split, texts in inputs.items():
        if not isinstance(texts, list):
            raise UserError(f"{place}: train has texts, and {split} has numbers.")
        told = f"{split} " if len(inputs) > 1 else ""
        origins = [f"{told}item {number}" for number in range(len(texts))]
        parts[split] = Texts(texts, labels.values[split], origins)
    parts = complete(parts, place, test_fraction=TEST_FRACTION, validation_fraction=TEXT_VALIDATION_FRACTION)
    level: Level = options.get("level") or usual_level(parts["train"].texts)
    return encode_splits(
        parts,
        labels.classes,
        level,
        lower_case=bool(options.get("lower_case", level == "words")),
        max_length=options.get("max_length", MAX_LENGTH),
        task=labels.task,
        source=place,
    )


def _kind_of(value: Any) -> str:
    """What something is, in a few words."""
    if isinstance(value, np.ndarray):
        return f"{value.dtype} {value.shape}"
    if value is None:
        return "nothing (None)"
    if isinstance(value, tuple | list):
        return f"a {type(value).__name__} of {len(value)}"
    return f"a {type(value).__name__}"
