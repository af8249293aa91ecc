"""Data from the user's own function: ``--data file.py:function``.

It returns a pair (inputs, labels) of arrays, tensors or lists; or a Dataset of (input, label) items; or a mapping with
"train" and perhaps "validation" and "test", each of them a pair or a Dataset.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, get_args

import numpy as np

from torchmill.components import tasks
from torchmill.components.data.content import digests_of, row_digests
from torchmill.components.data.field_splits import FieldSplits
from torchmill.components.data.formats.class_folders import SPLIT_NAMES
from torchmill.components.data.formats.labels import Labels, read_labels
from torchmill.components.data.formats.table_columns import notes_on, offset_of
from torchmill.components.data.formats.texts import Texts, complete, encode_splits, usual_level
from torchmill.components.data.formats.user_fields import has_named_fields, load_fields
from torchmill.components.data.formats.user_values import (
    Pictures,
    TextFiles,
    Values,
    as_images,
    as_inputs,
    opened_values,
    read_pair,
)
from torchmill.components.data.splits import Split, Splits, cut, cut_last
from torchmill.components.encoding.columns import Column, Columns
from torchmill.components.encoding.vocabulary import Level
from torchmill.components.errors import UserError, nearest
from torchmill.components.reading.rules import ReadingRules
from torchmill.components.reading.survey import Survey, depth_note, full_scale
from torchmill.components.refs import SPLIT, USUAL_SPLIT
from torchmill.components.user_code.call import call, takes
from torchmill.components.user_code.importing import import_from

TEST_FRACTION = 0.2
"""Share of each class to test with if the function gives no test split."""

TEXT_VALIDATION_FRACTION = 0.1
"""Share of texts to validate with. Runs can't cut it, since the vocabulary must not hold validation texts."""

MAX_LENGTH = 256
"""Longest text in tokens, unless the function says otherwise."""

TOKENIZER = "tokenizer"
"""Argument that names the file of a tokenizer; the function gets it if it takes one by this name."""

SPLITS = ("train", "validation", "test")
OPTIONS = ("classes", "task", "level", "lower_case", "max_length")
"""Keys that the function's mapping may hold beside the splits."""


def load_own(file: str, function: str, args: Mapping[str, Any]) -> Splits | FieldSplits:
    """Call the user's function, and return the splits of its data.

    Without a test split, a fifth of each class is cut off; equal inputs stay together. Inputs:

    - uint8 (N, C, H, W), (N, H, W), or (N, H, W, C) with 1, 3 or 4 channels, and images of Pillow are images;
    - other numbers (N, F, …), and whole numbers (N, F), become float32 numbers; a DataFrame names their columns;
    - texts become tokens: characters if half of the training texts have at most two words, else words. The keys
      "level", "lower_case" and "max_length" beside "train" override this.

    Labels: whole numbers, booleans and texts are classes; fractions (N,) or (N, K) are targets of a regression; 0 and 1
    as (N, K) are labels, several per sample. "task" beside "train" overrides this, "classes" names them.

    Raises:
        UserError: the function is missing, it fails, or it returns something else.

    Example:
        >>> def digits():  # in data.py; used by: torchmill train --data data.py:digits
        ...     images, labels = sklearn.datasets.load_digits(return_X_y=True)
        ...     return images.reshape(-1, 8, 8).astype("uint8"), labels
    """
    place = f"{file}:{function}"
    in_order = args.get(SPLIT, USUAL_SPLIT) != USUAL_SPLIT
    called, own = _function(file, function), {name: value for name, value in args.items() if name != SPLIT}
    tokenizer = None if takes(called, TOKENIZER) else own.pop(TOKENIZER, None)
    returned = call(called, own, place, "--data.args")
    if has_named_fields(returned):
        return load_fields(returned, place, in_order, tokenizer=tokenizer)
    if tokenizer:
        raise UserError(
            f"{place} gives pairs of inputs and labels, and a tokenizer makes named fields.",
            "Return {'text': texts, 'label': labels}.",
        )
    parts, options = _parts(returned, place)
    read = {split: read_pair(part, f"{place}: {split}") for split, part in parts.items()}
    inputs = {split: values for split, (values, _, _) in read.items()}
    labels = read_labels({split: values for split, (_, values, _) in read.items()}, place, **_label_options(options))
    if isinstance(inputs["train"], list) and in_order:
        raise UserError(f"{place} gives texts, which --data.split last can't cut.", "Give a 'validation' and a 'test'.")
    if isinstance(inputs["train"], list):
        return _texts(inputs, labels, options, place)
    names = _names({split: columns for split, (_, _, columns) in read.items()}, place)
    originals = dict(inputs)
    columns = _centred(inputs, names, place)
    arrays, rules, notes = _inputs(inputs, place)
    notes = (*notes, *notes_on(columns))
    digests = {split: _digests(originals[split], inputs[split], arrays[split]) for split in arrays}
    splits = replace(_arrays(arrays, labels, digests, place, in_order), rules=rules, notes=notes)
    return replace(splits, columns=Columns(tuple(columns))) if columns else splits


def _centred(inputs: dict[str, Values], names: Sequence[str], place: str) -> list[Column]:
    """Centre columns that float32 would merge, in place of ``inputs``; return the columns if they have names.

    Raises:
        UserError: float32 would merge a column without a name.
    """
    train = inputs["train"]
    if not isinstance(train, np.ndarray) or train.ndim > 2 or train.dtype.itemsize < 8:
        return [Column(name) for name in names]
    values = {split: np.atleast_2d(part.T).T for split, part in inputs.items() if isinstance(part, np.ndarray)}
    offsets = [offset_of(column[np.isfinite(column)].astype(np.float64)) for column in values["train"].T]
    if any(offsets) and not names:
        number = next(number for number, offset in enumerate(offsets) if offset)
        raise UserError(
            f"{place}: feature {number} has values around {offsets[number]:,.0f} that float32 would merge.",
            "Subtract a number from it in float64, or return a DataFrame: then that is done, in predict as well.",
        )
    for split, part in values.items():
        if any(offsets) and part.shape[1] == len(offsets):
            inputs[split] = part - np.array(offsets)
    return [Column(name, offset=offset) for name, offset in zip(names, offsets, strict=True)] if names else []


def _digests(original: Values, centred: Values, array: np.ndarray) -> np.ndarray:
    """Return each sample's digest, of the values before a change that depends on other samples."""
    if isinstance(original, Pictures):
        pixels = (np.asarray(picture.pixels) for _, picture in original.pictures)
        return digests_of(repr(each.shape).encode() + each.tobytes() for each in pixels)
    assert isinstance(original, np.ndarray)
    return row_digests(original if centred is not original or original.dtype == np.uint16 else array)


def _inputs(inputs: dict[str, Values], place: str) -> tuple[dict[str, np.ndarray], ReadingRules, tuple[str, ...]]:
    """Return arrays of images or numbers by split, the rules that images were read by, and notes on these."""
    notes: list[str] = []
    rules = ReadingRules()
    parts = {f"{place}: {split}": values for split, values in inputs.items()}
    if isinstance(inputs["train"], Pictures):
        survey = Survey()
        for part, values in parts.items():
            if not isinstance(values, Pictures):
                raise UserError(f"{part} has no images of Pillow, and train has.")
            for traits, picture in values.pictures:
                survey.add(traits, picture.levels())
        channels, rules = survey.decide("auto", place)
        notes = survey.notes(channels, rules)
        arrays = [as_images(values, channels, rules, part) for part, values in parts.items() if values]  # ty: ignore[invalid-argument-type]
    else:
        deep = [values for values in inputs.values() if isinstance(values, np.ndarray) and values.dtype == np.uint16]
        if largest := max((int(values.max()) for values in deep if values.ndim > 2), default=0):
            rules = ReadingRules(top=full_scale(largest))
            notes = [depth_note("the images", largest, rules.top)]
        arrays = [as_inputs(values, part, rules.top) for part, values in parts.items()]
    return dict(zip(inputs, arrays, strict=True)), rules, tuple(notes)


def call_own(file: str, function: str, args: Mapping[str, Any]) -> Any:
    """Return the value of the user's function.

    Raises:
        UserError: it is missing, or fails.
    """
    return call(_function(file, function), args, f"{file}:{function}", "--data.args")


def inputs_to_answer(returned: Any, place: str) -> tuple[str, Values, tuple[str, ...]]:
    """Return the split to answer in a function's value, its inputs and the names of their columns, if any.

    The split is test, or the only one, whose name is then empty. Inputs may come without labels.

    Raises:
        UserError: it gives named fields, or is of another form.
    """
    if has_named_fields(returned):
        raise UserError(f"{place} gives named fields, and the model takes one input.", "Return the inputs alone.")
    parts, _ = _parts(returned, place)
    split = "test" if "test" in parts else "train"
    part = parts[split]
    is_array = isinstance(part, np.ndarray) or hasattr(part, "detach") or hasattr(part, "to_numpy")
    if is_array or (isinstance(part, list) and len(part) != 2 and not any(isinstance(item, tuple) for item in part)):
        columns: Any = getattr(part, "columns", ())
        values, names = opened_values(part, place), tuple(map(str, columns))
    else:
        values, _, names = read_pair(part, place)
    if not len(values):
        raise UserError(f"{place} is empty.")
    return split if len(parts) > 1 else "", values, names


def _function(file: str, name: str) -> Callable[..., Any]:
    module = import_from(file)
    function = getattr(module, name, None)
    if function is None:
        names = [key for key, value in vars(module).items() if callable(value) and not key.startswith("_")]
        raise UserError(f"{file} has no function '{name}'.", nearest(name, names))
    if not callable(function):
        raise UserError(f"'{name}' in {file} is a {type(function).__name__}, not a function.")
    return function


def _parts(returned: Any, place: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the splits by name, and the options beside them."""
    if not isinstance(returned, Mapping):
        return {"train": returned}, {}
    values = _with_our_names(returned, place)
    for key in values:
        if key not in SPLITS + OPTIONS:
            raise UserError(f"{place} gives an unknown '{key}'.", nearest(str(key), SPLITS + OPTIONS))
    if values.get("train") is None:
        raise UserError(f"{place} gives no 'train'.", f"It gives {', '.join(map(str, values)) or 'an empty mapping'}.")
    parts = {split: values[split] for split in SPLITS if values.get(split) is not None}
    options = {option: values[option] for option in OPTIONS if values.get(option) is not None}
    _check_options(options, place)
    return parts, options


def _with_our_names(returned: Mapping[str, Any], place: str) -> dict[str, Any]:
    """Rename splits, for example val and valid to validation, as folders are."""
    ours = {name: split for split, names in SPLIT_NAMES.items() for name in names}
    named: dict[str, Any] = {}
    for key, value in returned.items():
        name = ours.get(key, key)
        if name in named:
            raise UserError(f"{place} gives '{name}' twice, once as '{key}'.", "Leave one of them out.")
        named[name] = value
    return named


def _check_options(options: Mapping[str, Any], place: str) -> None:
    for option, choices in (("task", tasks.names()), ("level", get_args(Level))):
        if option in options and options[option] not in choices:
            raise UserError(f"{place}: unknown {option} {options[option]!r}.", nearest(str(options[option]), choices))
    lower_case = options.get("lower_case", True)
    if not isinstance(lower_case, bool):
        raise UserError(f"{place}: lower_case is {lower_case!r}.", "Give True or False.")
    length = options.get("max_length", 1)
    if not isinstance(length, int) or isinstance(length, bool) or length < 1:
        raise UserError(f"{place}: max_length is {length!r}, not a whole number from 1.")


def _label_options(options: Mapping[str, Any]) -> dict[str, Any]:
    return {"task": options.get("task"), "classes": tuple(map(str, options.get("classes", ())))}


def _names(named: Mapping[str, tuple[str, ...]], place: str) -> tuple[str, ...]:
    """Return the names of the columns, and refuse splits with other names or another order."""
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
            raise UserError(
                f"{place}: {split} has other columns than train, or in another order.",
                "Use the same columns in the same order.",
            )
    return train


def _arrays(
    inputs: dict[str, np.ndarray], labels: Labels, digests: dict[str, np.ndarray], place: str, in_order: bool
) -> Splits:
    parts = {split: Split(values, labels.values[split], (), digests[split]) for split, values in inputs.items()}
    if "test" not in parts:
        train = parts["train"]
        fractions = {"test": TEST_FRACTION}
        rows = cut_last(len(train), fractions) if in_order else cut(train.labels, digests["train"], fractions)
        if not len(rows["test"]):
            raise UserError(f"{place} gives too few samples to cut any off for test.", "Give more, or a 'test' too.")
        prefix = "train " if len(inputs) > 1 else ""
        for split, chosen in rows.items():
            # Items of the user's data: rows of the prepared arrays would mean nothing to them.
            origins = [f"{prefix}item {row}" for row in chosen.tolist()]
            parts[split] = Split(train.inputs[chosen], train.labels[chosen], origins, digests["train"][chosen])
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
        prefix = f"{split} " if len(inputs) > 1 else ""
        origins = [f"{prefix}item {number}" for number in range(len(texts))]
        parts[split] = Texts(texts, labels.values[split], origins)
    parts = complete(parts, place, test_fraction=TEST_FRACTION, validation_fraction=TEXT_VALIDATION_FRACTION)
    level: Level = options.get("level") or usual_level(parts["train"].texts)
    return encode_splits(
        parts,
        labels.classes,
        level,
        lower_case=options.get("lower_case", level == "words"),
        max_length=options.get("max_length", MAX_LENGTH),
        task=labels.task,
        source=place,
        text_per="file" if isinstance(inputs["train"], TextFiles) else "line",
    )
