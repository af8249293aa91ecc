"""Answer many inputs with an ONNX model, part by part: what is written already is not done again."""

import csv
import hashlib
import json
import logging
import shutil
import warnings
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torchmill.components.data.progress import counted
from torchmill.components.errors import UserError, nearest
from torchmill.components.files import locked, write_atomically, write_text
from torchmill.components.onnx_model.model import OnnxModel, open_model
from torchmill.components.prediction import drift
from torchmill.components.prediction.inputs import Inputs, Unreadable, gather, largest_batch
from torchmill.components.processes import processors
from torchmill.components.refs import FileRef

logger = logging.getLogger("torchmill")

PART = 1024
"""Inputs in a part: so many are lost at most when the process is killed."""
AHEAD = 3
"""Batches that are decoded while one is answered."""
FORMATS = (".csv", ".jsonl", ".parquet")
COMPLAINTS = 5
"""So many unreadable inputs are told one by one."""

Row = tuple[str, str | None, float | None, list[float], str]
"""The input's name, label, confidence, probabilities or values, and what is wrong with it."""


@dataclass(frozen=True)
class Predictions:
    """What was written."""

    output: Path
    drift: Path
    """JSON: how like the training data the inputs are."""
    likeness: str
    """The same in words."""
    is_far: bool
    """Whether they are less like it than the answers' confidence may suggest."""
    answered: int
    unreadable: int
    found_done: int
    """Of both, what an earlier process had done."""


def predict(model_file: Path, places: Sequence[Path], output: Path, *, probabilities: bool = True) -> Predictions:
    """Answer all inputs at ``places`` and write a row for each into ``output``, in their order.

    Columns: ``file``, ``label``, ``confidence``, one of probabilities per class or label, and ``error``; of a
    regression ``file``, the targets and ``error``. The output appears when it is whole. Until then what is done lies in
    a folder beside it, from which the same call goes on.

    Args:
        output: .csv, .jsonl or .parquet.
        probabilities: of each class, too.

    Raises:
        UserError: the model or a place cannot be used, no input can be read, or the output cannot be written.
    """
    _check_output(output)
    model = open_model(model_file)
    inputs = gather(model, places)
    parts = output.with_name(f".{output.name}.parts")
    try:
        parts.mkdir(exist_ok=True)
    except OSError as error:
        raise UserError(f"Cannot write {output}: {error.strerror}.", "Is the place writable?") from error
    with locked(parts / "lock", wait=False) as free:
        if not free:
            raise UserError(f"Another process is writing {output}.", "Wait for it, or give another --output.")
        names, done = _answer(model, inputs, parts)
        sums: list[drift.Sums] = []
        counts = _write(model, _rows(parts, names, sums), output, probabilities)
        told = drift.note(model, drift.added(sums))
        note = output.with_name(f"{output.stem}.drift.json")
        write_text(note, json.dumps(told, indent=1))
        shutil.rmtree(parts, ignore_errors=True)
    if not counts[0]:
        raise UserError(f"None of the {counts[1]:,} inputs could be read.", f"{output} says why.")
    return Predictions(output, note, told.get("words", ""), told.get("is_far", False), *counts, done)


def _check_output(output: Path) -> None:
    if output.suffix.lower() not in FORMATS:
        raise UserError(f"{output}: unknown ending '{output.suffix}'.", nearest(output.suffix, FORMATS))
    if not output.parent.is_dir():
        raise UserError(f"There is no folder {output.parent} for {output.name}.", "Make it first.")


def _answer(model: OnnxModel, inputs: Inputs, parts: Path) -> tuple[list[str], int]:
    """See to it that there is a file for each part; gives their names, and how many inputs were done before."""
    digest = FileRef.of(model.file).sha256
    spans = [range(start, min(start + PART, len(inputs))) for start in range(0, len(inputs), PART)]
    names = [_part_name(digest, inputs, span) for span in spans]
    wanted = [(name, span) for name, span in zip(names, spans, strict=True) if not (parts / name).is_file()]
    for stale in parts.glob("*.json"):  # of other inputs or another model
        if stale.name not in names:
            stale.unlink()
    done = len(inputs) - sum(len(span) for _, span in wanted)
    if done:
        logger.info("predict  going on behind %s inputs that are done", f"{done:,}")
    size = largest_batch(model.field.batch_shape(model.shape))
    batches = [(name, span[at : at + size]) for name, span in wanted for at in range(0, len(span), size)]
    rows: list[Row] = []
    sums: list[drift.Sums] = []
    with counted("Answered", sum(len(span) for _, span in wanted)) as report:
        for at, ((name, numbers), read) in enumerate(
            zip(batches, _ahead(inputs, [b for _, b in batches]), strict=True)
        ):
            answered, summed = _answers(model, [inputs.names[number] for number in numbers], read)
            rows += answered
            sums.append(summed)
            if at + 1 == len(batches) or batches[at + 1][0] != name:
                write_text(parts / name, json.dumps([drift.added(sums), rows]))
                rows, sums = [], []
            report(len(numbers))
    return names, done


def _part_name(digest: str, inputs: Inputs, span: range) -> str:
    held = hashlib.sha256(digest.encode())
    for number in span:
        held.update(f"{inputs.names[number]}\0{inputs.digests[number]}\n".encode(errors="surrogateescape"))
    return f"{held.hexdigest()[:32]}.json"


def _ahead(inputs: Inputs, batches: Sequence[range]) -> Iterator[list[Any]]:
    """Read batches in threads, some ahead of the one that is wanted: Pillow lets the others run while it decodes."""
    threads = processors()

    def read(numbers: range) -> list[Any]:
        return [inputs.read(number) for number in numbers]

    with warnings.catch_warnings(), ThreadPoolExecutor(threads, "decode") as pool:
        warnings.simplefilter("ignore")  # Pillow's, of what is odd in a file and can be read all the same
        coming: deque[list[Future[list[Any]]]] = deque()
        for batch in [*batches, *[None] * AHEAD]:
            if batch is not None:
                step = max(1, -(-len(batch) // (2 * threads)))
                coming.append([pool.submit(read, batch[at : at + step]) for at in range(0, len(batch), step)])
            if coming and (batch is None or len(coming) > AHEAD):
                yield [one for part in coming.popleft() for one in part.result()]


def _answers(model: OnnxModel, names: Sequence[str], read: Sequence[Any]) -> tuple[list[Row], drift.Sums]:
    """Give a row for each input, and what the inputs are like."""
    good = [at for at, one in enumerate(read) if not isinstance(one, Unreadable)]
    rows: list[Row] = [
        (name, None, None, [], str(one) if isinstance(one, Unreadable) else "")
        for name, one in zip(names, read, strict=True)
    ]
    if not good:
        return rows, {"samples": 0}
    held = [read[at] for at in good]
    inputs = model.field.batch(held, model.vocabulary if model.field.is_sequence else None)
    given = model.answers(inputs)
    confidence = model.task_object.confidence(given)
    for order, (at, numbers) in enumerate(zip(good, given.tolist(), strict=True)):
        label = model.task_object.answer_words(given[order], model.labels)
        sure = None if label is None else _short(float(confidence[order]))
        rows[at] = (names[at], label, sure, [_short(number) for number in numbers], "")
    return rows, drift.sums_of(model, inputs, confidence)


def _rows(parts: Path, names: Sequence[str], sums: list[drift.Sums]) -> Iterator[Row]:
    """Give all rows, part by part, and put what the inputs are like there."""
    for name in names:
        summed, rows = json.loads((parts / name).read_text(encoding="utf-8"))
        sums.append(summed)
        yield from rows


def _write(model: OnnxModel, rows: Iterator[Row], output: Path, probabilities: bool) -> tuple[int, int]:
    """Write the output whole or not at all; gives how many rows have answers, and how many an error."""
    labelled = model.task_object.has_probabilities
    given = [f"probability of {label}" for label in model.labels] if labelled else [*model.labels]
    columns = [
        "file",
        *(["label", "confidence"] if labelled else []),
        *(given if probabilities or not labelled else []),
    ]
    columns += ["error"]
    counts, empty = [0, 0], [None] * len(given)
    shows = probabilities or not labelled

    def finished() -> Iterator[list[Any]]:
        for file, label, confidence, numbers, error in rows:
            counts[bool(error)] += 1
            if error and counts[1] <= COMPLAINTS:
                logger.warning("predict  %s %s: left out", file, error)
            said = [file, label, confidence] if labelled else [file]
            yield [*said, *((numbers or empty) if shows else ()), error]

    writers = {".csv": _csv, ".jsonl": _jsonl, ".parquet": _parquet}
    write_atomically(output, lambda partial: writers[output.suffix.lower()](partial, columns, finished()))
    if counts[1] > COMPLAINTS:
        logger.warning("predict  and %s more that can't be read: see the column 'error'", f"{counts[1] - COMPLAINTS:,}")
    return counts[0], counts[1]


def _short(value: float) -> float:
    """Seven digits: what float32 holds."""
    return float(f"{value:.7g}")


def _csv(path: Path, columns: Sequence[str], rows: Iterator[list[Any]]) -> None:
    with path.open("w", newline="", encoding="utf-8", errors="surrogateescape") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        writer.writerows(rows)


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
        held: list[dict[str, Any]] = []
        for row in rows:
            held.append(dict(zip(columns, row, strict=True)))
            if len(held) == 50 * PART:
                writer.write_table(pyarrow.Table.from_pylist(held, schema))
                held = []
        writer.write_table(pyarrow.Table.from_pylist(held, schema))
