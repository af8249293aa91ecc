"""Answers of models of tasks over named fields in words: spans and labels of texts, as JSON lines."""

import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from torchmill.components.files import write_atomically
from torchmill.components.metrics.spans import OUTSIDE, SpanLabels, spans_of
from torchmill.components.onnx_model import names
from torchmill.components.onnx_model.field_run import answers_of
from torchmill.components.prediction.field_inputs import FieldInputs
from torchmill.components.state_files import parse_json
from torchmill.components.wording import count

if TYPE_CHECKING:
    import onnxruntime

logger = logging.getLogger("torchmill")

LABEL = "label"
"""Key of the likeliest class in words."""

MOST_NUMBERS = 64
"""Numbers of an answer that a line holds at most."""


@dataclass
class Row:
    """Answers to a sample."""

    number: int
    """Number of its first part among the inputs."""
    answers: dict[str, Any]
    of_words: dict[str, list[int | None]]
    """Label of each word by answer; None for words without tokens."""

    def goes_on(self, part: "Row") -> None:
        """Add the labels of a further part of its text."""
        for name, labels in part.of_words.items():
            self.of_words[name] += labels


class AnswersInWords:
    """Answers to samples as JSON objects, by the names in a model's metadata."""

    def __init__(self, inputs: FieldInputs, metadata: Mapping[str, str]):
        self.inputs = inputs
        self.classes = parse_json(metadata.get(names.CLASSES, "[]"), tuple[str, ...])
        self.spans = SpanLabels.of(self.classes)
        self.has_words = next((field.text for field in inputs.fields if field.text), "whole") != "whole"
        self.left_out: dict[str, None] = {}

    def row(self, row: int, answer: Mapping[str, np.ndarray], steps: int) -> "Row":
        """Return the answers to a sample, or to a part of one.

        Args:
            answer: values without the dimension of samples, by name.
            steps: length of the batch's texts with padding.
        """
        shown, of_words = {}, {}
        for name, values in answer.items():
            is_whole, of_steps = values.dtype.kind in "iu", values.ndim == 1 and len(values) == steps
            if is_whole and of_steps and self.has_words:
                firsts = self.inputs.pieces[row].firsts
                of_words[name] = [int(values[first]) if first >= 0 else None for first in firsts]
            elif is_whole and not values.ndim:
                named = 0 <= values < len(self.classes)
                key = LABEL if named and name == names.INDEX else name
                shown[key] = self.classes[int(values)] if named else int(values)
            elif not values.ndim:
                shown[name] = _short(values)
            elif values.ndim > 1 or of_steps or len(values) > MOST_NUMBERS:
                self.left_out[name] = None
            elif len(values) == len(self.classes):
                shown[name] = dict(zip(self.classes, _short(values), strict=True))
            else:
                shown[name] = _short(values)
        return Row(row, shown, of_words)

    def in_words(self, row: "Row") -> dict[str, Any]:
        """Return the answers to a sample as an object, with the sample itself."""
        shown: dict[str, Any] = {"file": self.inputs.names[row.number]}
        if self.inputs.texts:
            shown["text"] = self.inputs.texts[row.number].text
        for name, labels in row.of_words.items():
            shown |= self._of_words(row.number, name, labels)
        return shown | row.answers

    def _of_words(self, row: int, name: str, labels: Sequence[int | None]) -> dict[str, Any]:
        """Return spans, or a label for each word; None for words without tokens."""
        text, places = self.inputs.texts[row]
        if not self.spans:
            return {
                "words": [text[start:end] for start, end in places],
                name: [None if label is None else self._label(label) for label in labels],
            }
        outside = self.classes.index(OUTSIDE) if OUTSIDE in self.classes else 0
        spans = []
        for first, end, kind in spans_of([outside if label is None else label for label in labels], self.spans):
            start, stop = places[first][0], places[end - 1][1]
            spans.append({"type": kind, "text": text[start:stop], "start": start, "end": stop})
        return {"spans": spans}

    def _label(self, label: int) -> str | int:
        return self.classes[label] if label < len(self.classes) else label


def _short(values: np.ndarray) -> Any:
    """Return numbers with seven digits, the precision of float32."""
    if values.dtype.kind != "f":
        return values.tolist()
    return [float(f"{value:.7g}") for value in values.tolist()] if values.ndim else float(f"{values:.7g}")


def write_rows(
    session: "onnxruntime.InferenceSession",
    inputs: FieldInputs,
    metadata: Mapping[str, str],
    output: Path,
    size: int,
) -> None:
    """Write a JSON object for each sample, in batches of one size; answers of many numbers are left out."""
    words = AnswersInWords(inputs, metadata)

    def rows() -> Iterator[dict[str, Any]]:
        whole: Row | None = None
        for start in range(0, len(inputs), size):
            batch = range(start, min(start + size, len(inputs)))
            arrays = inputs.arrays(batch)
            steps = _steps(inputs, arrays)
            answers = answers_of(session, arrays, size)
            for at, number in enumerate(batch):
                row = words.row(number, {name: values[at] for name, values in answers.items()}, steps)
                if whole and inputs.goes_on(number):
                    whole.goes_on(row)
                    continue
                if whole:
                    yield words.in_words(whole)
                whole = row
        if whole:
            yield words.in_words(whole)

        yield from ({"file": file, "error": reason} for file, reason in inputs.unreadable.items())

    def write(partial: Path) -> None:
        with partial.open("w", encoding="utf-8") as file:
            for row in rows():
                file.write(json.dumps(row, ensure_ascii=False) + "\n")

    write_atomically(output, write)
    if words.left_out:
        logger.info("predict  %s: left out of %s; --output FILE.npz has it", ", ".join(words.left_out), output.name)
    if inputs.samples < len(inputs):
        logger.info("predict  texts longer than those of training are answered in parts: %s in all", f"{len(inputs):,}")
    elif cut := sum(each.is_cut for each in inputs.pieces):
        texts = count(cut, "text is", "texts are")
        logger.warning("predict  %s longer than those of training: their ends count for nothing", texts)


def _steps(inputs: FieldInputs, arrays: Mapping[str, np.ndarray]) -> int:
    first: Sequence[str] = [field.name for field in inputs.fields if field.text]
    return arrays[first[0]].shape[1] if first else -1
