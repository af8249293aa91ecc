"""Named fields from the user's own function: mappings of arrays, or Datasets whose items are mappings or tuples."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from torchmill.components.batches.field_refs import TARGET_NAMES, FieldRef, inputs_of, lengths_fields
from torchmill.components.data.field_splits import FieldSplits
from torchmill.components.data.formats.class_folders import SPLIT_NAMES
from torchmill.components.data.formats.field_cut import (
    TEST_FRACTION,
    VALIDATION_FRACTION,
    cut_as_told,
    groups_of,
    origins_of,
    rows_of_splits,
    taken,
)
from torchmill.components.data.formats.field_statistics import moments, ragged_moments
from torchmill.components.data.formats.ragged_fields import (
    Arrays,
    LengthsByName,
    digests_of_rows,
    is_ragged,
    padded,
    without_padding,
)
from torchmill.components.data.formats.sound_fields import OPTIONS as SOUND_OPTIONS
from torchmill.components.data.formats.sound_fields import opened_sounds
from torchmill.components.data.formats.token_fields import OPTIONS as TEXT_OPTIONS
from torchmill.components.data.formats.token_fields import (
    Encoded,
    encoded_strings,
    text_rules,
    token_columns,
    token_digests,
)
from torchmill.components.data.formats.user_values import Pictures, as_images, as_pixels, kind_of, opened_values
from torchmill.components.data.named_fields import IGNORED, IGNORED_PIXEL
from torchmill.components.encoding.tokenizer import Tokenizer
from torchmill.components.errors import UserError, nearest, shortened
from torchmill.components.reading.survey import Survey
from torchmill.components.user_code.importing import first_hand
from torchmill.components.wording import count

SPLITS = ("train", "validation", "test")
OPTIONS = ("targets", "groups", "split", "names", *TEXT_OPTIONS, *SOUND_OPTIONS)
"""Keys that the function's mapping may hold beside the splits."""

MOST_CLASSES = IGNORED_PIXEL - 1
"""Classes of a mask that fit into bytes, beside the ignored ones."""

REMEDY_FOR_TEXTS = "Give a string, or a list of strings, for each sample."


def has_named_fields(returned: Any) -> bool:
    """Return True if a function's value has named fields, and is no pair of inputs and labels."""
    if isinstance(returned, Mapping):
        ours = {name for names in SPLIT_NAMES.values() for name in names} | set(SPLITS)
        split = next((value for key, value in returned.items() if key in ours), None)
        if split is None:
            return bool(returned) and all(map(_is_array, returned.values()))
        return isinstance(split, Mapping) or _first_item_is_named(split)
    return _first_item_is_named(returned)


def _is_array(value: Any) -> bool:
    return isinstance(value, list | np.ndarray) or hasattr(value, "detach") or hasattr(value, "to_numpy")


def _first_item_is_named(part: Any) -> bool:
    if isinstance(part, tuple | np.ndarray | str) or hasattr(part, "detach") or hasattr(part, "to_numpy"):
        return hasattr(part, "_fields") and not isinstance(part, np.ndarray)  # a named tuple of arrays
    if not hasattr(part, "__getitem__") or not hasattr(part, "__len__") or not len(part):
        return False
    try:
        first = part[0]
    except Exception:  # the user's Dataset can fail in any way; reading it will tell
        return False
    return isinstance(first, Mapping) or hasattr(first, "_fields")


def load_fields(
    returned: Any,
    place: str,
    in_order: bool = False,
    origins: Mapping[str, Sequence[str]] = {},
    tokenizer: str | None = None,
) -> FieldSplits:
    """Return the splits of a function's value with named fields.

    Args:
        in_order: test with the last samples, since they follow each other in time.
        origins: names of the samples by split; items of the function's value without them.
        tokenizer: file of a tokenizer; the function's own "tokenizer", or words, without it.

    Raises:
        UserError: fields are missing, of different lengths, or hold no numbers.

    Example:
        >>> def scans():  # in own.py; used by: torchmill train --data own.py:scans --task segmentation
        ...     return {"image": pixels, "mask": classes}  # uint8 (N, H, W, 3) and integers (N, H, W)
    """
    parts, options = _parts(returned, place)
    columns = {split: _columns(part, f"{place}: {split}") for split, part in parts.items()}
    _check_names(columns, place)
    targets = _targets(options, columns["train"], place)
    groups = groups_of(options, _samples(columns["train"]), place)
    if in_order and groups is not None:
        raise UserError(f"{place} gives 'groups', and --data.split last cuts by order alone.", "Leave one of them out.")
    columns, groups, origins = cut_as_told(columns, options, groups, origins, place)
    columns, sounds = opened_sounds(columns, options, place)
    columns, groups, origins = _cut_texts(columns, targets, groups, origins, place, in_order)
    file = tokenizer or options.get("tokenizer")
    rules = text_rules(options, Tokenizer.read(Path(file).expanduser()) if file else None, place)
    encoded = encoded_strings(columns, targets, dict(options.get("names", {})), rules, place)
    columns, options = encoded.columns, {**options, "names": encoded.names}
    values: dict[str, Arrays] = {split: {} for split in columns}
    refs: list[FieldRef] = []
    shared = LengthsByName()
    for name in columns["train"]:
        where = f"{place} field '{name}'"
        raw = {split: columns[split][name] for split in columns}
        padding = encoded.padding if name in encoded.tokens else 0
        arrays, lengths = _arrays(raw, where, name in encoded.ragged, padding)
        ref, stored = _described(name, arrays, name in targets, bool(lengths), options, place)
        ref = ref.model_copy(update=encoded.traits(name) | sounds.traits(name))
        if lengths:
            ref = ref.model_copy(update={"lengths": shared.name_of(name, lengths, name in targets, where)})
        refs.append(ref)
        for split in columns:
            values[split][name] = stored[split]
    for ref in lengths_fields(refs):
        refs.append(ref)
        for split in columns:
            values[split][ref.name] = shared.lengths[ref.name][split]
    splits = _cut(values, tuple(refs), groups, origins, encoded, place, in_order)
    return replace(splits, notes=(*splits.notes, *sounds.notes))


def own_columns(returned: Any, place: str) -> tuple[str, dict[str, Any]]:
    """Return the fields of the samples to answer in a function's value, and their split; empty if it gives no splits.

    Raises:
        UserError: it has no named fields.
    """
    if not has_named_fields(returned):
        raise UserError(f"{place} gives no named fields.", "Return an array or a list for each field by its name.")
    parts, _ = _parts(returned, place)
    split = "test" if "test" in parts else "train"
    return split if len(parts) > 1 else "", _columns(parts[split], place)


def _check_names(columns: Mapping[str, Mapping[str, Any]], place: str) -> None:
    for split, fields in columns.items():
        for name in (*columns["train"], *fields):
            if name in fields and name in columns["train"]:
                continue
            where = "train" if name in fields else split
            raise UserError(f"{place}: {where} has no field '{name}'.", nearest(name, columns[where]))


def _samples(fields: Mapping[str, Any]) -> int:
    return len(next(iter(fields.values())))


def _cut_texts(
    columns: dict[str, dict[str, Any]],
    targets: frozenset[str],
    groups: np.ndarray | None,
    origins: Mapping[str, Sequence[str]],
    place: str,
    in_order: bool,
) -> tuple[dict[str, dict[str, Any]], np.ndarray | None, Mapping[str, Sequence[str]]]:
    """Cut missing splits of texts from train, before their vocabulary is made; equal texts stay together."""
    tokens = token_columns(columns, targets, place)
    fractions = {"test": TEST_FRACTION, "validation": VALIDATION_FRACTION}
    missing = {split: fraction for split, fraction in fractions.items() if split not in columns}
    if not tokens or not missing:
        return columns, groups, origins
    whole = columns["train"]
    rows = rows_of_splits(token_digests(whole, tokens) if groups is None else groups, missing, place, in_order)
    parts = {split: taken(whole, chosen) for split, chosen in rows.items()}
    return {**columns, **parts}, None if groups is None else groups[rows["train"]], origins_of(rows, origins)


def _parts(returned: Any, place: str) -> tuple[dict[str, Any], dict[str, Any]]:
    ours = {name: split for split, names in SPLIT_NAMES.items() for name in names} | {name: name for name in SPLITS}
    if not isinstance(returned, Mapping) or not any(key in ours for key in returned):
        return {"train": returned}, {}
    parts = {ours[key]: value for key, value in returned.items() if key in ours and value is not None}
    options = {key: value for key, value in returned.items() if key not in ours}
    for key in options:
        if key not in OPTIONS:
            raise UserError(f"{place} gives an unknown '{key}'.", nearest(str(key), [*SPLITS, *OPTIONS]))
    if "train" not in parts:
        raise UserError(f"{place} gives no 'train'.", f"It gives {', '.join(map(str, returned))}.")
    return parts, options


def _targets(options: Mapping[str, Any], fields: Mapping[str, Any], place: str) -> frozenset[str]:
    if "targets" not in options:
        return frozenset(name for name in fields if name.lower() in TARGET_NAMES)
    named = options["targets"]
    names = (named,) if isinstance(named, str) else tuple(named)
    for name in names:
        if name not in fields:
            raise UserError(f"{place}: 'targets' names '{name}', which is no field.", nearest(str(name), fields))
    return frozenset(names)


def _columns(part: Any, place: str) -> dict[str, Any]:
    """Return the fields of a split by name: arrays, or lists of values."""
    if hasattr(part, "_asdict"):
        part = part._asdict()
    if isinstance(part, Mapping):
        sizes = {str(name): len(values) for name, values in part.items()}
        if len(set(sizes.values())) > 1:
            listed = ", ".join(f"{name} {size:,}" for name, size in sizes.items())
            raise UserError(f"{place}: fields have different numbers of samples: {listed}.")
        if not sizes or not next(iter(sizes.values())):
            raise UserError(f"{place} is empty.")
        return {str(name): values for name, values in part.items()}
    columns: dict[str, list[Any]] = {}
    number = -1
    try:
        for number in range(len(part)):
            item = part[number]
            item = item._asdict() if hasattr(item, "_asdict") else item
            if not isinstance(item, Mapping):
                raise UserError(f"{place}: item {number} is {kind_of(item)}, and the first is a mapping.")
            if columns and item.keys() != columns.keys():
                odd = shortened(sorted({*map(str, item)} ^ {*map(str, columns)}))
                raise UserError(f"{place}: item {number} has other fields than item 0: {odd}.")
            for name, value in item.items():
                columns.setdefault(str(name), []).append(_copied(value))
    except UserError:
        raise
    except Exception as error:  # the user's Dataset can fail in any way
        raise UserError(f"{place}: item {number} failed: {first_hand(error)}") from error
    return columns


def _copied(value: Any) -> Any:
    """Return a copy of a value: a Dataset may reuse its memory."""
    if hasattr(value, "detach"):
        return np.array(value.detach().cpu().numpy())
    return np.array(value) if isinstance(value, np.ndarray) else value


def _arrays(raw: Mapping[str, Any], place: str, ragged: bool, padding: int) -> tuple[Arrays, Arrays]:
    """Return a field's values as an array for each split, and the lengths of ragged samples."""
    opened: dict[str, Any] = {
        split: [np.asarray(value) for value in values]
        if ragged or is_ragged(values)
        else opened_values(values, f"{place} of {split}")
        for split, values in raw.items()
    }
    if any(isinstance(values, Pictures) for values in opened.values()):
        return _images(opened, place), {}
    for split, values in opened.items():
        if isinstance(values, list) and not all(isinstance(value, np.ndarray) for value in values):
            raise UserError(f"{place} of {split} holds texts.", REMEDY_FOR_TEXTS)
    if not any(isinstance(values, list) for values in opened.values()):
        return _numbers(opened, place), {}
    arrays, lengths = padded(opened, padding, place)
    return _numbers(arrays, place), lengths


def _images(opened: Mapping[str, Any], place: str) -> Arrays:
    survey = Survey()
    for values in opened.values():
        for traits, picture in values.pictures:
            survey.add(traits, picture.levels())
    channels, rules = survey.decide("auto", place)
    return {split: as_images(values, channels, rules, place) for split, values in opened.items()}


def _numbers(arrays: Mapping[str, np.ndarray], place: str) -> Arrays:
    train = arrays["train"]
    for split, values in arrays.items():
        if values.dtype.kind not in "biuf":
            raise UserError(f"{place} of {split} is {kind_of(values)}.", "Give numbers.")
        if values.shape[1:] != train.shape[1:]:
            raise UserError(
                f"{place}: samples of {split} have the shape {values.shape[1:]}, those of train {train.shape[1:]}."
            )
        if values.dtype.kind == "f" and not np.isfinite(values).all():
            bad = np.flatnonzero(~np.isfinite(values.reshape(len(values), -1)).all(1))
            holds = count(len(bad), "sample holds", "samples hold")
            raise UserError(
                f"{place} of {split}: {holds} values that are no finite numbers; the first is number {bad[0]}.",
                "Fill them in, or leave these samples out.",
            )
    return dict(arrays)


def _described(
    name: str, arrays: Arrays, is_target: bool, ragged: bool, options: Mapping[str, Any], place: str
) -> tuple[FieldRef, Arrays]:
    """Return the description of a field, and its arrays as they are stored."""
    train, names = arrays["train"], tuple(map(str, dict(options.get("names", {})).get(name, ())))
    common: dict[str, Any] = {"name": name, "file": name, "is_target": is_target, "ragged": ragged, "names": names}
    where = f"{place} field '{name}'"
    if train.dtype.kind == "b" and not is_target:
        arrays = {split: values.astype(np.float32) for split, values in arrays.items()}
        train = arrays["train"]
    if is_target and train.dtype.kind in "bui" and train.ndim > 2 and not ragged:
        stored = {split: _mask(values, f"{where} of {split}") for split, values in arrays.items()}
        if {int(value) for values in stored.values() for value in np.unique(values)} == {0, IGNORED_PIXEL}:
            raise UserError(f"{where} holds 0 and 255 alone, and 255 is ignored.", "Give 0 and 1: mask // 255.")
        size = max(int(values[values != IGNORED_PIXEL].max(initial=0)) for values in stored.values()) + 1
        size = _size(size, names, where)
        return FieldRef(kind="mask", shape=stored["train"].shape[1:], dtype="uint8", size=size, **common), stored
    if not is_target and train.dtype in (np.uint8, np.uint16) and train.ndim in (3, 4):
        stored = {split: as_pixels(values, where) for split, values in arrays.items()}
        shape, dtype = stored["train"].shape[1:], str(train.dtype)
        return FieldRef(kind="image", shape=shape, dtype=dtype, **common), stored
    if train.dtype.kind in "bui":
        stored = {split: values.astype(np.int64) for split, values in arrays.items()}
        for split, values in stored.items():
            if values.min(initial=0) < 0 and not (is_target and set(np.unique(values[values < 0])) == {IGNORED}):
                raise UserError(f"{where} of {split} holds {values.min()}.", "Ids count from 0.")
        size = max(int(values.max(initial=0)) for values in stored.values()) + 1
        are_of_columns = is_target and train.ndim == 2 and size <= 2 and len(names) == train.shape[1] and not ragged
        size = 2 if are_of_columns else _size(size, names, where)
        return FieldRef(kind="ids", shape=train.shape[1:], dtype="int64", size=size, **common), stored
    stored = {split: values.astype(np.float32) for split, values in arrays.items()}
    return FieldRef(kind="values", shape=train.shape[1:], dtype="float32", **common), stored


def _size(size: int, names: tuple[str, ...], place: str) -> int:
    if names and size > len(names):
        raise UserError(f"{place} holds class {size - 1}, and 'names' has {len(names)}.", "Name every class.")
    return max(size, len(names))


def _mask(values: np.ndarray, place: str) -> np.ndarray:
    """Return masks as bytes (N, H, W), with 255 for ignored pixels."""
    if values.ndim == 4 and 1 in (values.shape[1], values.shape[3]):
        values = values[:, 0] if values.shape[1] == 1 else values[..., 0]
    if values.ndim != 3:
        raise UserError(f"{place} is {kind_of(values)}.", "Give a class for each pixel: integers (N, H, W).")
    whole = values.astype(np.int64)
    ignored = (whole == IGNORED) | ((values.dtype == np.uint8) & (whole == IGNORED_PIXEL))
    largest, least = int(whole[~ignored].max(initial=0)), int(whole[~ignored].min(initial=0))
    if least < 0 or largest > MOST_CLASSES:
        raise UserError(
            f"{place} holds classes from {least} to {largest}.", f"Give 0 to {MOST_CLASSES}, or -100 to ignore."
        )
    return np.where(ignored, IGNORED_PIXEL, whole).astype(np.uint8)


def _cut(
    values: dict[str, Arrays],
    refs: Sequence[FieldRef],
    groups: np.ndarray | None,
    origins: Mapping[str, Sequence[str]],
    encoded: Encoded,
    place: str,
    in_order: bool,
) -> FieldSplits:
    """Return the splits; without a test split, a fifth of the samples is cut off, groups whole."""
    inputs = [ref.name for ref in inputs_of(refs)]
    if not inputs:
        raise UserError(f"{place} has targets alone.", "Name the targets: 'targets' beside 'train'.")
    numbers = [ref for ref in refs if ref.name in inputs and ref.name not in encoded.tokens]
    digests = {
        split: digests_of_rows(
            [*([encoded.digests[split]] if encoded.tokens else []), *(without_padding(ref, arrays) for ref in numbers)]
        )
        for split, arrays in values.items()
    }
    if "test" not in values:
        rows = rows_of_splits(digests["train"] if groups is None else groups, {"test": TEST_FRACTION}, place, in_order)
        whole, whole_digests = values["train"], digests["train"]
        for split, chosen in rows.items():
            values[split], digests[split] = taken(whole, chosen), whole_digests[chosen]
        origins = origins_of(rows, origins)
        groups = None if groups is None else groups[rows["train"]]
    # Of the training split alone: a test sample must not move the mean.
    described = tuple(_with_statistics(ref, values["train"]) for ref in refs)
    return FieldSplits(values, described, digests, groups, origins, place, encoded.notes, encoded.encoding)


def _with_statistics(ref: FieldRef, train: Arrays) -> FieldRef:
    if ref.kind not in ("image", "values"):
        return ref
    values = train[ref.name]
    mean, std = ragged_moments(values, train[ref.lengths]) if ref.ragged else moments(values)
    return ref.model_copy(update={"mean": mean, "std": std})
