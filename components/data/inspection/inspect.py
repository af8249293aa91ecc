"""Inspection of a prepared data set before training: balance, copies, leaks between splits, suspect labels."""

import dataclasses
import hashlib
import json
import time
from pathlib import Path
from typing import Any

import numpy as np

from torchmill.components import files
from torchmill.components.data.fetch import read_vocabulary
from torchmill.components.data.inspection import contact_sheet
from torchmill.components.data.inspection.duplicates import SplitPart, find_copies, with_origins
from torchmill.components.data.inspection.findings import MOST_LISTED, Findings
from torchmill.components.data.inspection.inspect_fields import inspect_fields
from torchmill.components.data.splits import cut_validation
from torchmill.components.refs import DataRef


def inspect(data: DataRef, folder: Path) -> Findings:
    """Inspect all splits, and write ``inspection.json``, ``samples.png`` and, for texts, ``samples.txt`` to a folder.

    The files are deterministic: they leave out the duration.
    """
    if data.field_refs:
        return inspect_fields(data, folder)
    started = time.monotonic()
    splits = _read(data)
    vocabulary = None
    if data.field.is_sequence:
        vocabulary = read_vocabulary(data)
    parts = {
        **_balance(data, splits),
        **_features(data, splits["train"]),
        **with_origins(data.folder, splits, find_copies(data, splits, vocabulary)),
    }
    findings = Findings(
        kind=data.kind,
        task=data.task,
        shape=data.shape,
        classes=data.classes,
        sizes={split: len(part) for split, part in splits.items()},
        seconds=time.monotonic() - started,
        **parts,
    )
    folder.mkdir(parents=True, exist_ok=True)
    report = dataclasses.asdict(findings)
    del report["seconds"]
    report |= {name: [row._asdict() for row in getattr(findings, name)] for name in ("leaks", "suspects")}
    files.write_text(folder / "inspection.json", json.dumps(report, indent=1, ensure_ascii=False))
    train = splits["train"]
    suspects = [suspect.row for suspect in findings.suspects]
    contact_sheet.draw(data, train.inputs, train.labels, train.rows, suspects, vocabulary, folder)
    return dataclasses.replace(findings, seconds=time.monotonic() - started)


def _read(data: DataRef) -> dict[str, SplitPart]:
    def opened(split: str) -> tuple[np.ndarray, np.ndarray]:
        labels = np.load(data.folder / f"{split}_labels.npy")
        return np.load(data.folder / f"{split}_inputs.npy", mmap_mode="r"), labels

    def whole(split: str) -> SplitPart:
        inputs, labels = opened(split)
        return SplitPart(split, inputs, labels, np.arange(len(labels)))

    if data.validation_size:
        return {split: whole(split) for split in ("train", "validation", "test")}
    inputs, labels = opened("train")
    training, validation = cut_validation(data, labels)
    cut = {"train": training, "validation": validation}
    return {**{split: SplitPart("train", inputs, labels, rows) for split, rows in cut.items()}, "test": whole("test")}


def _balance(data: DataRef, splits: dict[str, SplitPart]) -> dict[str, Any]:
    counts = {}
    for split, part in splits.items():
        number = data.task_object.counts(part.labels[part.rows], len(data.classes))
        if number is None:
            return {"counts": {}, "majority_share": 0.0, "imbalance": 0.0}
        counts[split] = dict(zip(data.classes, number.tolist(), strict=True))
    sizes = [count for count in counts["train"].values() if count]
    largest, smallest = max(sizes, default=0), min(sizes, default=0)
    share = largest / max(1, len(splits["train"])) if data.task_object.is_exclusive else 0.0
    return {"counts": counts, "majority_share": share, "imbalance": largest / smallest if smallest else 0.0}


def _features(data: DataRef, train: SplitPart) -> dict[str, Any]:
    """Find features that are constant, or equal to another one."""
    if data.field.is_sequence:
        return {"constant_features": (), "constant_count": 0, "equal_features": ()}
    size = int(np.prod(data.shape))
    first = np.asarray(train.inputs[train.rows[0]])
    constant = np.ones(first.shape, bool)
    hashes = [hashlib.blake2b(digest_size=16) for _ in range(size if not data.field.is_picture and size <= 4096 else 0)]
    for start in range(0, len(train.inputs), 4096):
        # The whole training file: a feature that varies in validation alone is not constant.
        block = np.asarray(train.inputs[start : start + 4096])
        constant &= (block.max(0) == first) & (block.min(0) == first)
        columns = np.ascontiguousarray(block.reshape(len(block), -1).T) if hashes else ()
        for column, hashed in zip(columns, hashes, strict=bool(hashes)):
            hashed.update(column)
    numbers = np.flatnonzero(constant).tolist()
    seen: dict[bytes, int] = {}
    equal = []
    for number, hashed in enumerate(hashes):
        earlier = seen.setdefault(hashed.digest(), number)
        if earlier != number and not constant.ravel()[number]:
            equal.append((earlier, number))
    return {
        "constant_features": tuple(numbers[:MOST_LISTED]),
        "constant_count": len(numbers),
        "equal_features": tuple(equal[:MOST_LISTED]),
    }
