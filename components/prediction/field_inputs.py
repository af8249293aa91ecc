"""Inputs of models of tasks over named fields, from texts, JSON lines, columns, and the user's own functions."""

import dataclasses
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from torchmill.components.batches.field_refs import FieldRef, inputs_of
from torchmill.components.data.datasets import conll
from torchmill.components.data.formats.user_fields import own_columns
from torchmill.components.data.formats.user_function import call_own
from torchmill.components.encoding.texts import TextEncoding
from torchmill.components.encoding.words import Pieces, joined, places_of_words
from torchmill.components.errors import UserError, nearest, shortened
from torchmill.components.onnx_model import names
from torchmill.components.onnx_model.field_run import encoding_of
from torchmill.components.prediction.own_inputs import is_own_function
from torchmill.components.reading.sound import Unusable, fitted, read_wav
from torchmill.components.reading.texts import lines, read_text
from torchmill.components.state_files import parse_json

COLUMNS = (".conll", ".iob", ".bio")
TEXTS = frozenset({".txt", ".jsonl", *COLUMNS})
"""Endings of files of texts, in lower case."""

MOST_TOLD = 3
"""Faults that an error lists."""


class Text(NamedTuple):
    """A text, and first character and end of each of its words; no words of whole texts."""

    text: str
    words: Sequence[tuple[int, int]]


@dataclass(frozen=True)
class FieldInputs:
    """Samples in their order."""

    names: Sequence[str]
    """Place of each sample, for example a file and a line."""
    fields: Sequence[FieldRef]
    columns: Mapping[str, Sequence[Any]]
    """Values of each input without lengths: an array (N, …), or an array for each sample of ragged ones."""
    texts: Sequence[Text] = ()
    """Texts of the first input that holds some; empty without one."""
    pieces: Sequence[Pieces] = ()
    """Ids of these texts, with the place of each word's first one."""
    begins: Sequence[int] = ()
    """First word of each part of a text: 0, but for the parts that follow in texts longer than those of training. All
    else is repeated for each part. Empty if no text has parts."""
    unreadable: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """Files that can't be read, with the reasons; they are no samples."""

    def __len__(self) -> int:
        return len(self.names)

    def goes_on(self, row: int) -> bool:
        """Return True if a row is a further part of the text before it."""
        return bool(self.begins) and self.begins[row] > 0

    @property
    def samples(self) -> int:
        """Number of samples, whose parts count once."""
        return sum(not self.goes_on(row) for row in range(len(self)))

    def arrays(self, rows: range) -> dict[str, np.ndarray]:
        """Return the inputs of some samples as the model takes them: padded to the longest, with lengths."""
        taken: dict[str, np.ndarray] = {}
        for field in self.fields:
            if field.kind == "lengths":
                ragged = next(other for other in self.fields if other.ragged and other.lengths == field.name)
                taken[field.name] = np.array([len(self.columns[ragged.name][row]) for row in rows], np.int64)
                continue
            values = self.columns[field.name]
            if not field.ragged:
                taken[field.name] = np.asarray(values[rows.start : rows.stop])
                continue
            longest = max(len(values[row]) for row in rows)
            first = values[rows.start]
            padded = np.full((len(rows), longest, *first.shape[1:]), field.padding, first.dtype)
            for at, row in enumerate(rows):
                padded[at, : len(values[row])] = values[row]
            taken[field.name] = padded
        return taken


def gather_samples(places: Sequence[Path], fields: Sequence[FieldRef], metadata: Mapping[str, str]) -> FieldInputs:
    """Read samples from files of texts, or from the value of the user's function.

    Raises:
        UserError: a place can't be read, or does not fit the model's inputs. The message lists the faults of a file.
    """
    inputs = inputs_of(fields)
    if noise := [field.name for field in inputs if not field.file]:
        raise UserError(
            f"The model takes random inputs: {', '.join(noise)}.", "Give an .npz file with an array for each input."
        )
    origins: list[str] = []
    columns: dict[str, list[Any]] = {field.name: [] for field in inputs}
    classes = parse_json(metadata.get(names.CLASSES, "[]"), tuple[str, ...])
    for place in places:
        rows, read = _own(place, inputs) if is_own_function(place) else _file(place, inputs, classes)
        origins += rows
        for name, values in read.items():
            columns[name] += list(values)
    return _encoded(origins, fields, columns, encoding_of(metadata))


def is_of_sound(fields: Sequence[FieldRef]) -> bool:
    """Return True if sound files are all that a model takes."""
    inputs = inputs_of(fields)
    return len(inputs) == 1 and inputs[0].sound is not None


def read_sounds(files: Sequence[Path], fields: Sequence[FieldRef]) -> FieldInputs:
    """Read sound files as training did.

    Raises:
        UserError: none can be read.
    """
    (field,) = inputs_of(fields)
    assert field.sound
    channels = field.shape[-1] if len(field.shape) > 1 else 1
    waveforms, unreadable = {}, {}
    for file in files:
        try:
            waveform = fitted(read_wav(file), field.sound, channels)
            if not field.ragged and len(waveform) != field.shape[0]:
                raise Unusable(f"has {len(waveform):,} steps, not {field.shape[0]:,} as all of training")
            waveforms[str(file)] = waveform
        except Unusable as error:
            unreadable[str(file)] = str(error)
    if not waveforms:
        listed = "; ".join(f"{file} {reason}" for file, reason in [*unreadable.items()][:MOST_TOLD])
        raise UserError(f"No sound can be used: {listed}.")
    return FieldInputs([*waveforms], fields, {field.name: [*waveforms.values()]}, unreadable=unreadable)


def _own(place: Path, inputs: Sequence[FieldRef]) -> tuple[list[str], Mapping[str, Sequence[Any]]]:
    """Return names of samples and values of inputs that the user's function gives; those of test if it gives splits."""
    file, _, function = str(place).rpartition(":")
    split, columns = own_columns(call_own(file, function, {}), str(place))
    if missing := [field.name for field in inputs if field.name not in columns]:
        raise UserError(
            f"{place} has no field {' and no field '.join(missing)}.", nearest(missing[0], map(str, columns))
        )
    count = len(next(iter(columns.values())))
    rows = [f"{place} {split} item {row}".replace("  ", " ") for row in range(count)]
    return rows, {field.name: columns[field.name] for field in inputs}


def _file(
    place: Path, inputs: Sequence[FieldRef], classes: Sequence[str]
) -> tuple[list[str], Mapping[str, Sequence[Any]]]:
    """Return names of samples and values of inputs in a file."""
    content = lines(read_text(place))
    if place.suffix.lower() == ".jsonl":
        return _json_lines(place, content, inputs)
    (field,) = _only_text(place, inputs)
    if place.suffix.lower() in COLUMNS or (field.text != "whole" and _has_label_column(content, classes)):
        texts, origins = conll.read_tokens(place)
        return [f"{place.parent / origin}" for origin in origins], {field.name: texts}
    return [f"{place} line {number}" for number in range(1, len(content) + 1)], {field.name: content}


def _only_text(place: Path, inputs: Sequence[FieldRef]) -> Sequence[FieldRef]:
    if len(inputs) != 1 or not inputs[0].text:
        takes = ", ".join(field.words() for field in inputs)
        raise UserError(
            f"{place} holds texts alone, and the model takes {takes}.",
            "Give a .jsonl file with an object for each sample, or an .npz file with an array for each input.",
        )
    return inputs


def _has_label_column(content: Sequence[str], classes: Sequence[str]) -> bool:
    """Return True if each line is empty or ends in one of the model's labels."""
    cells = [line.split() for line in content]
    cells = [row for row in cells if row and row[0] != conll.DOCUMENT]
    return bool(cells) and all(len(row) > 1 and row[-1] in classes for row in cells)


def _json_lines(
    place: Path, content: Sequence[str], inputs: Sequence[FieldRef]
) -> tuple[list[str], Mapping[str, Sequence[Any]]]:
    columns: dict[str, list[Any]] = {field.name: [] for field in inputs}
    origins, faults = [], []
    for number, line in enumerate(content, 1):
        if not line.strip():
            continue
        try:
            value = json.loads(line)
        except ValueError as error:
            faults.append(f"line {number} is no JSON ({error})")
            continue
        if not isinstance(value, dict):
            value = {inputs[0].name: value} if len(inputs) == 1 else {}
        if missing := [field.name for field in inputs if field.name not in value]:
            faults.append(f"line {number} has no '{missing[0]}'")
            continue
        origins.append(f"{place} line {number}")
        for field in inputs:
            columns[field.name].append(value[field.name])
    if faults:
        more = f", and {len(faults) - MOST_TOLD} more" * (len(faults) > MOST_TOLD)
        example = json.dumps({field.name: "…" for field in inputs}, ensure_ascii=False)
        raise UserError(f"{place}: {', '.join(faults[:MOST_TOLD])}{more}.", f"Write an object in each line: {example}.")
    return origins, columns


def _encoded(
    origins: Sequence[str],
    fields: Sequence[FieldRef],
    columns: Mapping[str, Sequence[Any]],
    encoding: TextEncoding | None,
) -> FieldInputs:
    if not origins:
        raise UserError("There are no samples.")
    inputs = inputs_of(fields)
    if encoding and len(inputs) == 1 and inputs[0].text not in ("", "whole"):
        return _in_parts(origins, fields, inputs[0], columns[inputs[0].name], encoding)
    encoded: dict[str, Sequence[Any]] = {}
    shown: tuple[Sequence[Text], Sequence[Pieces]] = ((), ())
    faults = []
    for field in inputs:
        if not field.text:
            encoded[field.name], odd = _numbers(field, columns[field.name], origins)
            faults += odd
            continue
        assert encoding
        texts = [_text(value, field) for value in columns[field.name]]
        faults += [
            f"{origin}: '{field.name}' is no text" for origin, text in zip(origins, texts, strict=True) if text is None
        ]
        if faults:
            continue
        read = [text for text in texts if text is not None]
        pieces = [_pieces(text, field, encoding) for text in read]
        encoded[field.name] = [np.array(each.ids, np.int64) for each in pieces]
        shown = shown if shown[0] else (read, pieces)
    _refuse(faults)
    return FieldInputs(origins, fields, encoded, *shown)


def _refuse(faults: Sequence[str]) -> None:
    if faults:
        more = f"; and {len(faults) - MOST_TOLD} more" * (len(faults) > MOST_TOLD)
        raise UserError(f"{'; '.join(faults[:MOST_TOLD])}{more}.", "Give strings, lists of strings, or numbers.")


def _in_parts(
    origins: Sequence[str], fields: Sequence[FieldRef], field: FieldRef, values: Sequence[Any], encoding: TextEncoding
) -> FieldInputs:
    """Return texts of words; those longer than the longest of training in parts that are not."""
    texts = [_text(value, field) for value in values]
    _refuse([f"{where}: '{field.name}' is no text" for where, text in zip(origins, texts, strict=True) if text is None])
    rows = [
        (origin, text, pieces, begin)
        for origin, text in zip(origins, texts, strict=True)
        if text is not None
        for begin, pieces in _parts_of(text, field.shape[0], encoding)
    ]
    columns = {field.name: [np.array(pieces.ids, np.int64) for _, _, pieces, _ in rows]}
    names, read, every, begins = zip(*rows, strict=True)
    return FieldInputs(names, fields, columns, read, every, begins)


def _parts_of(text: Text, longest: int, encoding: TextEncoding) -> Iterator[tuple[int, Pieces]]:
    """Yield the first word and the ids of each part of a text."""
    words = [text.text[start:end] for start, end in text.words]
    begin = 0
    while True:
        pieces = encoding.pieces(words[begin:], longest)
        if not pieces.is_cut:
            yield begin, pieces
            return
        known = [at for at, first in enumerate(pieces.firsts) if first >= 0]
        count = max(1, known[-1] if known else 1)  # without the last word, which may be cut itself
        yield begin, Pieces(pieces.ids, pieces.firsts[:count], True)
        begin += count
        if begin >= len(words):
            return


def _text(value: Any, field: FieldRef) -> Text | None:
    """Return a text of a string or of a list of words; None of other values."""
    if isinstance(value, str):
        return Text(value, () if field.text == "whole" else places_of_words(value, field.text))
    if not isinstance(value, list | tuple | np.ndarray) or not all(isinstance(word, str) for word in value):
        return None
    words = list(map(str, value))
    text, starts = joined(words)
    return Text(text, [(start, start + len(word)) for start, word in zip(starts, words, strict=True)])


def _pieces(text: Text, field: FieldRef, encoding: TextEncoding) -> Pieces:
    longest = field.shape[0]
    if field.text == "whole":
        return encoding.text_pieces(text.text, longest)
    return encoding.pieces([text.text[start:end] for start, end in text.words], longest)


def _numbers(field: FieldRef, values: Sequence[Any], origins: Sequence[str]) -> tuple[Sequence[Any], list[str]]:
    """Return values of an input as it is stored, and faults."""
    kind = np.int64 if field.kind == "ids" else np.dtype(field.dtype)
    arrays, faults = [], []
    sides = field.shape[1:] if field.ragged else field.shape
    for origin, value in zip(origins, values, strict=True):
        try:
            array = np.asarray(value.detach().cpu() if hasattr(value, "detach") else value)
        except ValueError:
            faults.append(f"{origin}: '{field.name}' holds lists of different lengths")
            continue
        if array.dtype.kind not in "biuf":
            faults.append(f"{origin}: '{field.name}' holds {array.dtype}, not numbers")
        elif (array.shape[1:] if field.ragged else array.shape) != sides or (field.ragged and not array.ndim):
            expected = ", ".join(map(str, (*(["length"] if field.ragged else []), *sides)))
            faults.append(f"{origin}: '{field.name}' has the shape {array.shape}, not ({expected})")
        elif field.kind == "ids" and array.size and not 0 <= array.min() <= array.max() < field.size:
            faults.append(f"{origin}: '{field.name}' holds {shortened([*map(str, np.unique(array).tolist())])}")
        elif array.dtype.kind == "f" and not np.isfinite(array).all():
            faults.append(f"{origin}: '{field.name}' holds values that are no finite numbers")
        arrays.append(array.astype(kind))
    values = arrays if field.ragged or faults else list(np.stack(arrays))
    return values, faults
