"""Inspection of a data set of named fields: copies between splits, constant fields, and pictures of some samples."""

import dataclasses
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from torchmill.components import files
from torchmill.components.batches.field_refs import FieldRef
from torchmill.components.data.content import read_digests
from torchmill.components.data.field_samples import FieldSamples, read_fields
from torchmill.components.data.field_splits import groups_file
from torchmill.components.data.inspection.findings import MOST_LISTED, Findings, Leak
from torchmill.components.data.inspection.overlaps import Overlaps, overlaps, time_field
from torchmill.components.data.named_fields import named_fields
from torchmill.components.data.origins import read_origins
from torchmill.components.data.splits import cut_validation, strata
from torchmill.components.metrics.sample_grid import as_rgb, overlaid, save_grid
from torchmill.components.refs import DataRef
from torchmill.components.wording import count

SHOWN = 12
"""Training samples that are shown."""

NOT_SEARCHED: dict[str, Any] = {
    "counts": {},
    "majority_share": 0.0,
    "imbalance": 0.0,
    "equal_features": (),
    "near_across": {},
    "power": 1.0,
    "contradictions": 0,
    "contradicting": (),
    "contradicting_origins": (),
    "suspects": (),
    "suspect_count": 0,
    "labels_compared": 1.0,
}
"""Entries of the findings that are about labels, or about near copies."""


def inspect_fields(data: DataRef, folder: Path) -> Findings:
    """Inspect all splits, and write ``inspection.json``, ``samples.txt`` and, of images, ``samples.png`` to a folder.

    Samples are copies if all their inputs are equal, and windows of a series leak if they share steps. Near copies are
    searched for in data sets of labels alone.
    """
    started = time.monotonic()
    digests = _digests(data)
    within = {split: len(values) - len(np.unique(values)) for split, (values, _) in digests.items()}
    equal: dict[str, int] = {}
    leaks: list[Leak] = []
    test, _ = digests["test"]
    leaking = np.zeros(len(test), bool)
    for split in ("train", "validation"):
        values, rows = digests[split]
        order = np.argsort(values, kind="stable")
        places = np.minimum(np.searchsorted(values[order], test), len(values) - 1)
        same = values[order][places] == test
        equal[f"{split} and test"] = int(same.sum())
        leaking |= same
        for row in np.flatnonzero(same)[: MOST_LISTED - len(leaks)].tolist():
            row_of_split = int(rows[order[places[row]]])
            leaks.append(Leak(row, split, row_of_split, 1.0))
    windows, searched = _overlapping(data), np.arange(len(test))
    if windows:
        searched = windows.searched
        leaking[windows.rows] = True
        some = zip(windows.rows[: MOST_LISTED - len(leaks)].tolist(), windows.others.tolist(), strict=False)
        leaks += [Leak(row, "train", other, 0.0, verb="overlaps") for row, other in some]
    leaks = _with_origins(leaks, data)
    constant = [
        number
        for number, field in enumerate(named_fields(data))
        if field.kind in ("values", "image") and field.std and not any(field.std)
    ]
    findings = Findings(
        kind=data.kind,
        task=data.goal.reference if data.goal else data.task,
        shape=data.shape,
        classes=data.classes,
        sizes={split: len(values) for split, (values, _) in digests.items()},
        constant_features=tuple(constant),
        constant_count=len(constant),
        copies_within=within,
        equal_across=equal,
        leakage=float(leaking[searched].mean()),
        overlapping=len(windows.rows) if windows else 0,
        leaks=tuple(leaks),
        compared=len(test),
        seconds=time.monotonic() - started,
        **NOT_SEARCHED,
    )
    folder.mkdir(parents=True, exist_ok=True)
    report = dataclasses.asdict(findings)
    del report["seconds"]
    report |= {"leaks": [leak._asdict() for leak in findings.leaks], "suspects": []}
    files.write_text(folder / "inspection.json", json.dumps(report, indent=1, ensure_ascii=False))
    show_samples(data, read_fields(data, "train"), folder)
    return dataclasses.replace(findings, seconds=time.monotonic() - started)


def _overlapping(data: DataRef) -> Overlaps | None:
    """Return the test windows of a series that share steps with training windows; None if the cut is one in time."""
    field = None if data.is_ordered else time_field(named_fields(data))
    if field is None:
        return None
    train, test = (np.load(data.folder / f"{split}_{field.file}.npy", mmap_mode="r") for split in ("train", "test"))
    lengths = {"test": np.load(data.folder / f"test_{field.lengths}.npy")} if field.ragged else {}
    return overlaps(train, test, field, lengths)


def _with_origins(leaks: list[Leak], data: DataRef) -> list[Leak]:
    """Return leaks with the names of their samples, if these have some."""
    test = read_origins(data.folder, "test", [leak.row for leak in leaks])
    own = "validation" if data.validation_size else "train"
    others = {
        split: read_origins(data.folder, file, [leak.other_row for leak in leaks if leak.split == split])
        for split, file in (("train", "train"), ("validation", own))
    }
    return [
        leak._replace(origin=test.get(leak.row, ""), other_origin=others[leak.split].get(leak.other_row, ""))
        for leak in leaks
    ]


def _digests(data: DataRef) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Return the digests of each split, with their rows in the split's file."""
    whole = {split: read_digests(data, split) for split in ("train", "test")}
    test = whole["test"], np.arange(len(whole["test"]))
    if data.validation_size:
        validation = read_digests(data, "validation")
        train = whole["train"], np.arange(len(whole["train"]))
        return {"train": train, "validation": (validation, np.arange(len(validation))), "test": test}
    training, validation = cut_validation(data, strata(data))
    cut = {"train": training, "validation": validation}
    return {**{split: (whole["train"][rows], rows) for split, rows in cut.items()}, "test": test}


def _shown(value: float, field: FieldRef) -> str:
    """Return a number, or the name of an id."""
    return field.names[int(value)] if field.kind == "ids" and 0 <= value < len(field.names) else f"{value:g}"


def show_samples(data: DataRef, samples: FieldSamples, folder: Path) -> None:
    """Write the first training samples: their fields in words, and images with their masks as a picture."""
    batch = samples.take(torch.arange(min(SHOWN, len(samples))))
    groups = ", in groups" if groups_file(data.folder).is_file() else ""
    lines = [f"{data.name}: {count(len(samples), 'training sample')}{groups}"]
    for field in named_fields(data):
        lines.append(f"{field.words()}{', target' if field.is_target else ''}")
        if field.name in batch and field.kind != "image":
            first = batch[field.name][:3].flatten(1) if batch[field.name].dim() > 1 else batch[field.name][:3, None]
            lines += [f"  {' '.join(_shown(value, field) for value in row[:16])}" for row in first.tolist()]
    files.write_text(folder / "samples.txt", "\n".join(lines) + "\n")
    images = [field for field in named_fields(data) if field.kind == "image"]
    if images:
        rows = [as_rgb(batch[field.name].float().numpy()) for field in images]
        masks = [field for field in named_fields(data) if field.kind == "mask"]
        if masks:
            rows.append(overlaid(rows[0], batch[masks[0].name].numpy()))
        save_grid(rows, folder / "samples.png")
