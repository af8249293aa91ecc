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

import numpy as np

from components.data.progress import counted
from components.errors import UserError, nearest
from components.files import locked, write_atomically, write_text
from components.prediction import drift
from components.prediction.inputs import Inputs, Unreadable, gather, largest_batch
from components.prediction.model import OnnxModel, open_model
from components.processors import processors
from components.refs import FileRef

logger = logging.getLogger("torchmill")

PART = 1024
"""Inputs in a part: so many are lost at most when the process is killed."""
AHEAD = 3
"""Batches that are decoded while one is answered."""
FORMATS = (".csv", ".jsonl", ".parquet")
COMPLAINTS = 5
"""So many unreadable inputs are told one by one."""


@dataclass(frozen=True)
class Predictions:
    """What was written."""

    output: Path
    drift: Path
    """JSON: how like the training data the inputs are."""
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
        rows = (row for name in names for row in _read(parts / name)[1:])
        counts = _write(model, rows, output, probabilities)
        total = drift.added([_read(parts / name)[0] for name in names])
        note = output.with_name(f"{output.stem}.drift.json")
        write_text(note, json.dumps(drift.note(model, total), indent=1))
        shutil.rmtree(parts, ignore_errors=True)
    if not counts[0]:
        raise UserError(f"None of the {counts[1]:,} inputs could be read.", f"{output} says why.")
    return Predictions(output, note, *counts, done)


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
    for stale in parts.glob("*.jsonl"):  # of other inputs or another model
        if stale.name not in names:
            stale.unlink()
    done = len(inputs) - sum(len(span) for _, span in wanted)
    if done:
        logger.info("predict  going on behind %s inputs that are done", f"{done:,}")
    size = largest_batch(model.shape if model.kind != "tokens" else (1000,))
    batches = [(name, span[at : at + size]) for name, span in wanted for at in range(0, len(span), size)]
    rows: list[dict[str, Any]] = []
    sums: list[drift.Sums] = []
    with counted("Answered", sum(len(span) for _, span in wanted)) as report:
        for at, ((name, numbers), read) in enumerate(
            zip(batches, _ahead(inputs, [b for _, b in batches]), strict=True)
        ):
            answered, summed = _answers(model, [inputs.names[number] for number in numbers], read)
            rows += answered
            sums.append(summed)
            if at + 1 == len(batches) or batches[at + 1][0] != name:
                lines = [drift.added(sums), *rows]
                write_text(parts / name, "".join(json.dumps(line) + "\n" for line in lines))
                rows, sums = [], []
            report(len(numbers))
    return names, done


def _part_name(digest: str, inputs: Inputs, span: range) -> str:
    held = hashlib.sha256(digest.encode())
    for number in span:
        held.update(f"{inputs.names[number]}\0{inputs.digests[number]}\n".encode(errors="surrogateescape"))
    return f"{held.hexdigest()[:32]}.jsonl"


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


def _answers(model: OnnxModel, names: Sequence[str], read: Sequence[Any]) -> tuple[list[dict[str, Any]], drift.Sums]:
    """Give a row for each input, and what the inputs are like."""
    good = [at for at, one in enumerate(read) if not isinstance(one, Unreadable)]
    rows: list[dict[str, Any]] = [{"file": name, "error": ""} for name in names]
    for at, one in enumerate(read):
        if isinstance(one, Unreadable):
            rows[at]["error"] = str(one)
    if not good:
        return rows, {"samples": 0}
    held = [read[at] for at in good]
    inputs = model.vocabulary.encode(held) if model.kind == "tokens" else np.stack(held)
    given = model.answers(inputs)
    confidence = np.empty(0)
    if model.task != "regression":
        sure = given if model.task == "classification" else np.maximum(given, 1 - given)
        confidence = sure.max(1) if model.task == "classification" else sure.min(1)
    best = given.argmax(1).tolist()
    for order, (at, numbers) in enumerate(zip(good, given.tolist(), strict=True)):
        rows[at]["given"] = numbers
        if model.task != "regression":
            rows[at]["confidence"] = float(confidence[order])
            chosen = [best[order]] if model.task == "classification" else np.flatnonzero(given[order] > 0.5).tolist()
            rows[at]["label"] = "|".join(model.labels[number] for number in chosen)
    return rows, drift.sums_of(model, inputs, confidence)


def _read(part: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in part.read_text(encoding="utf-8").splitlines()]


def _write(model: OnnxModel, rows: Iterator[dict[str, Any]], output: Path, probabilities: bool) -> tuple[int, int]:
    """Write the output whole or not at all; gives how many rows have answers, and how many an error."""
    regression = model.task == "regression"
    given = [*model.labels] if regression else [f"probability of {label}" for label in model.labels]
    columns = [
        "file",
        *([] if regression else ["label", "confidence"]),
        *(given if probabilities or regression else []),
    ]
    columns += ["error"]
    counts = [0, 0]

    def finished() -> Iterator[dict[str, Any]]:
        for row in rows:
            failed = bool(row["error"])
            counts[failed] += 1
            if failed and counts[1] <= COMPLAINTS:
                logger.warning("predict  %s %s: left out", row["file"], row["error"])
            numbers = row.pop("given", [None] * len(given))
            whole = {**row, **{name: _short(value) for name, value in zip(given, numbers, strict=True)}}
            whole["confidence"] = _short(row.get("confidence"))
            yield {name: whole.get(name) for name in columns}

    writers = {".csv": _csv, ".jsonl": _jsonl, ".parquet": _parquet}
    write_atomically(output, lambda partial: writers[output.suffix.lower()](partial, columns, finished()))
    if counts[1] > COMPLAINTS:
        logger.warning("predict  and %s more that can't be read: see the column 'error'", f"{counts[1] - COMPLAINTS:,}")
    return counts[0], counts[1]


def _short(value: float | None) -> float | None:
    """Seven digits: what float32 holds."""
    return None if value is None else float(f"{value:.7g}")


def _csv(path: Path, columns: Sequence[str], rows: Iterator[dict[str, Any]]) -> None:
    with path.open("w", newline="", encoding="utf-8", errors="surrogateescape") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(rows)


def _jsonl(path: Path, columns: Sequence[str], rows: Iterator[dict[str, Any]]) -> None:
    with path.open("w", encoding="utf-8") as file:
        for row in rows:
            file.write(json.dumps(row) + "\n")


def _parquet(path: Path, columns: Sequence[str], rows: Iterator[dict[str, Any]]) -> None:
    import pyarrow
    from pyarrow import parquet

    texts = {"file", "label", "error"}
    kinds = [(name, pyarrow.string() if name in texts else pyarrow.float32()) for name in columns]
    schema = pyarrow.schema(kinds)
    with parquet.ParquetWriter(path, schema) as writer:
        held: list[dict[str, Any]] = []
        for row in rows:
            held.append(row)
            if len(held) == 50 * PART:
                writer.write_table(pyarrow.Table.from_pylist(held, schema))
                held = []
        writer.write_table(pyarrow.Table.from_pylist(held, schema))
