"""Predictions of an ONNX model for many inputs, in parts: a repeated call skips finished parts."""

import contextlib
import csv
import hashlib
import json
import logging
import re
import warnings
from collections import deque
from collections.abc import Collection, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from torchmill.components.data.progress import counted
from torchmill.components.errors import UserError, nearest
from torchmill.components.files import locked, make_own_folder, write_atomically, write_text
from torchmill.components.onnx_model.model import OnnxModel, open_model
from torchmill.components.prediction import drift
from torchmill.components.prediction.inputs import Inputs, Unreadable, gather, largest_batch
from torchmill.components.prediction.own_inputs import is_own_function, own_inputs
from torchmill.components.processes import processors
from torchmill.components.refs import FileRef
from torchmill.components.state_files import read_json

logger = logging.getLogger("torchmill")

PART = 1024
"""Number of inputs in a part: the most that a killed process can lose."""
PART_FILE = re.compile(r"[0-9a-f]{32}\.json|\.[0-9a-f]{32}\.json\.\d+\.partial")
AHEAD = 3
"""Number of batches to decode while the model answers another."""
FORMATS = (".csv", ".jsonl", ".parquet")
COMPLAINTS = 5
"""Number of unreadable inputs to log singly."""

PART_SHAPE = tuple[dict[str, Any], list[tuple[str, str | None, float | None, list[float | None], str]], str]
"""Content of a part file: sums for drift, rows, and the digest of both."""

Row = tuple[str, str | None, float | None, list[float], str]
"""The input's name, label, confidence, probabilities or values, and error."""


@dataclass(frozen=True)
class Predictions:
    """The written files and their counts."""

    output: Path
    drift: Path
    """JSON file that compares the inputs with the training data."""
    likeness: str
    """The comparison in words."""
    is_far: bool
    """True if the inputs differ from training's so much that the confidence may mislead."""
    answered: int
    unreadable: int
    found_done: int
    """Number of inputs, readable or not, that an earlier process had done."""


def predict(model_file: Path, places: Sequence[Path], output: Path, *, probabilities: bool = True) -> Predictions:
    """Answer all inputs in ``places`` and write a row for each to ``output``, in their order.

    Columns: ``file``, ``label``, ``confidence``, a probability per class or label, and ``error``. A regression has
    ``file``, the targets and ``error``. The output appears when it is complete. Until then finished parts are in a
    folder beside it, and the same call continues from there.

    Args:
        output: a .csv, .jsonl or .parquet file.
        probabilities: also write the probability of each class.

    Raises:
        UserError: the model or a place cannot be used, no input can be read, or the output cannot be written.

    Example:
        >>> done = predict(Path("model.onnx"), [Path("photos")], Path("answers.csv"))  # doctest: +SKIP
        >>> print(done.answered, done.unreadable, done.likeness)  # doctest: +SKIP
    """
    _check_output(output)
    model = open_model(model_file)
    inputs = _gathered(model, places)
    parts = output.with_name(f".{output.name}.parts")
    make_own_folder(parts)
    with locked(parts / "lock", wait=False) as free:
        if not free:
            raise UserError(f"Another process is writing {output}.", "Wait for it, or give another --output.")
        names, done = _answer(model, inputs, parts)
        sums: list[drift.Sums] = []
        counts = _write(model, _rows(parts, names, sums), output, probabilities)
        findings = drift.note(model, drift.added(sums))
        note = output.with_name(f"{output.stem}.drift.json")
        write_text(note, json.dumps(findings, indent=1))
        _remove_parts(parts)
    if not counts[0]:
        raise UserError(f"None of the {counts[1]:,} inputs could be read.", f"{output} says why.")
    return Predictions(output, note, findings.get("words", ""), findings.get("is_far", False), *counts, done)


def _gathered(model: OnnxModel, places: Sequence[Path]) -> Inputs:
    if not any(map(is_own_function, places)):
        return gather(model, places)
    if len(places) > 1:
        raise UserError(f"{len(places)} places, and one is a function.", "Give the function alone.")
    return own_inputs(model, places[0])


def _check_output(output: Path) -> None:
    if output.suffix.lower() not in FORMATS:
        raise UserError(f"{output}: unknown ending '{output.suffix}'.", nearest(output.suffix, FORMATS))
    if not output.parent.is_dir():
        raise UserError(f"There is no folder {output.parent} for {output.name}.", "Make it first.")


def _answer(model: OnnxModel, inputs: Inputs, parts: Path) -> tuple[list[str], int]:
    """Write the missing part files; return the names of all, and the number of inputs that were done before."""
    digest = FileRef.of(model.file).sha256
    spans = [range(start, min(start + PART, len(inputs))) for start in range(0, len(inputs), PART)]
    names = [_part_name(digest, inputs, span) for span in spans]
    missing = [(name, span) for name, span in zip(names, spans, strict=True) if not (parts / name).is_file()]
    _remove_parts(parts, but=names)  # those of other inputs or another model
    done = len(inputs) - sum(len(span) for _, span in missing)
    if done:
        logger.info("predict  %s inputs are done already", f"{done:,}")
    size = largest_batch(model.field.batch_shape(model.shape))
    batches = [(name, span[at : at + size]) for name, span in missing for at in range(0, len(span), size)]
    rows: list[Row] = []
    sums: list[drift.Sums] = []
    with counted("Answered", sum(len(span) for _, span in missing)) as report:
        for at, ((name, numbers), read) in enumerate(
            zip(batches, _ahead(inputs, [b for _, b in batches]), strict=True)
        ):
            answered, summed = _answers(model, [inputs.names[number] for number in numbers], read)
            rows += answered
            sums.append(summed)
            if at + 1 == len(batches) or batches[at + 1][0] != name:
                summed = drift.added(sums)
                write_text(parts / name, json.dumps([summed, rows, _digest(summed, rows)]))
                rows, sums = [], []
            report(len(numbers))
    return names, done


def _digest(summed: drift.Sums, rows: Sequence[Row]) -> str:
    return hashlib.sha256(json.dumps([summed, rows]).encode()).hexdigest()


def _part_name(digest: str, inputs: Inputs, span: range) -> str:
    hasher = hashlib.sha256(digest.encode())
    for number in span:
        hasher.update(f"{inputs.names[number]}\0{inputs.digests[number]}\n".encode(errors="surrogateescape"))
    return f"{hasher.hexdigest()[:32]}.json"


def _remove_parts(parts: Path, but: Collection[str] | None = None) -> None:
    """Remove the part files of this folder and, unless ``but`` names some to keep, the folder itself if it is empty."""
    for path in parts.iterdir():
        if path.name not in (but or ()) and PART_FILE.fullmatch(path.name):
            path.unlink()
    if but is None:
        (parts / "lock").unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # somebody keeps something else there
            parts.rmdir()


def _ahead(inputs: Inputs, batches: Sequence[range]) -> Iterator[list[Any]]:
    """Read batches ahead in threads: Pillow releases the GIL while it decodes."""
    threads = processors()

    def read(numbers: range) -> list[Any]:
        return [inputs.read(number) for number in numbers]

    with warnings.catch_warnings(), ThreadPoolExecutor(threads, "decode") as pool:
        warnings.simplefilter("ignore")  # Pillow warns of odd files that it can read
        coming: deque[list[Future[list[Any]]]] = deque()
        for batch in [*batches, *[None] * AHEAD]:
            if batch is not None:
                step = max(1, -(-len(batch) // (2 * threads)))
                coming.append([pool.submit(read, batch[at : at + step]) for at in range(0, len(batch), step)])
            if coming and (batch is None or len(coming) > AHEAD):
                yield [value for part in coming.popleft() for value in part.result()]


def _answers(model: OnnxModel, names: Sequence[str], read: Sequence[Any]) -> tuple[list[Row], drift.Sums]:
    """Return a row for each input, and the sums for drift."""
    good = [at for at, value in enumerate(read) if not isinstance(value, Unreadable)]
    rows: list[Row] = [
        (name, None, None, [], str(value) if isinstance(value, Unreadable) else "")
        for name, value in zip(names, read, strict=True)
    ]
    if not good:
        return rows, {"samples": 0}
    inputs = model.field.batch([read[at] for at in good], model.vocabulary if model.field.is_sequence else None)
    answers = model.answers(inputs)
    confidence = model.task_object.confidence(answers)
    for order, (at, numbers) in enumerate(zip(good, answers.tolist(), strict=True)):
        if not np.isfinite(answers[order]).all():
            rows[at] = (names[at], None, None, [], "the model's answer is no number: nan or infinite")
            continue
        label = model.task_object.answer_words(answers[order], model.labels)
        sure = None if label is None else _short(float(confidence[order]))
        rows[at] = (names[at], label, sure, [_short(number) for number in numbers], "")
    return rows, drift.sums_of(model, inputs, confidence[np.isfinite(confidence)])


def _rows(parts: Path, names: Sequence[str], sums: list[drift.Sums]) -> Iterator[Row]:
    """Yield all rows, part by part, and append the parts' sums to ``sums``."""
    for name in names:
        part = read_json(parts / name, PART_SHAPE, surrogates=True)
        if part is None or part[2] != _digest(part[0], part[1]):
            (parts / name).unlink(missing_ok=True)
            message = f"A part of the unfinished answers in {parts} was damaged."
            raise UserError(message, "Run the same command again: it answers those inputs anew.")
        summed, rows, _ = part
        sums.append(summed)
        yield from rows


def _write(model: OnnxModel, rows: Iterator[Row], output: Path, probabilities: bool) -> tuple[int, int]:
    """Write the output atomically; return the numbers of rows with an answer and with an error."""
    labelled = model.task_object.has_probabilities
    answer_columns = [f"probability of {label}" for label in model.labels] if labelled else [*model.labels]
    columns = [
        "file",
        *(["label", "confidence"] if labelled else []),
        *(answer_columns if probabilities or not labelled else []),
    ]
    columns += ["error"]
    counts, empty = [0, 0], [None] * len(answer_columns)
    shows = probabilities or not labelled

    def finished() -> Iterator[list[Any]]:
        for file, label, confidence, numbers, error in rows:
            counts[bool(error)] += 1
            if error and counts[1] <= COMPLAINTS:
                logger.warning("predict  %s %s: left out", file, error)
            first = [file, label, confidence] if labelled else [file]
            yield [*first, *((numbers or empty) if shows else ()), error]

    writers = {".csv": _csv, ".jsonl": _jsonl, ".parquet": _parquet}
    write_atomically(output, lambda partial: writers[output.suffix.lower()](partial, columns, finished()))
    if counts[1] > COMPLAINTS:
        logger.warning("predict  and %s more that can't be read: see the column 'error'", f"{counts[1] - COMPLAINTS:,}")
    return counts[0], counts[1]


def _short(value: float) -> float:
    """Round to seven digits, the precision of float32."""
    return float(f"{value:.7g}")


def _csv(path: Path, columns: Sequence[str], rows: Iterator[list[Any]]) -> None:
    with path.open("w", newline="", encoding="utf-8", errors="surrogateescape") as file:
        writer = csv.writer(file)
        writer.writerow(map(_cell, columns))
        writer.writerows(map(_cell, row) for row in rows)


def _cell(value: Any) -> Any:
    """Return a cell that a spreadsheet takes for text: one that begins like a formula gets an apostrophe in front.

    See https://owasp.org/www-community/attacks/CSV_Injection.
    """
    if not isinstance(value, str) or not value.startswith(("=", "+", "-", "@", "\t", "\r")):
        return value
    try:
        float(value)
    except ValueError:
        return f"'{value}"
    return value


def _jsonl(path: Path, columns: Sequence[str], rows: Iterator[list[Any]]) -> None:
    with path.open("w", encoding="utf-8") as file:
        for row in rows:
            file.write(json.dumps(dict(zip(columns, row, strict=True))) + "\n")


def _parquet(path: Path, columns: Sequence[str], rows: Iterator[list[Any]]) -> None:
    import pyarrow
    from pyarrow import parquet

    texts = {"file", "label", "error"}
    kinds = [(name, pyarrow.string() if name in texts else pyarrow.float32()) for name in columns]
    schema = pyarrow.schema(kinds)
    with parquet.ParquetWriter(path, schema) as writer:
        group: list[dict[str, Any]] = []
        for row in rows:
            group.append(dict(zip(columns, row, strict=True)))
            if len(group) == 50 * PART:
                writer.write_table(pyarrow.Table.from_pylist(group, schema))
                group = []
        writer.write_table(pyarrow.Table.from_pylist(group, schema))
