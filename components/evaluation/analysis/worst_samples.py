"""Test samples with the worst values of a task's main measure, at a task over named fields."""

import filecmp
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from torchmill.components.data.field_samples import FieldSamples
from torchmill.components.data.origins import read_origins
from torchmill.components.field_tasks.field_task import FieldTask
from torchmill.components.files import temporary_folder
from torchmill.components.initialization.fields_model import FieldsModel
from torchmill.components.refs import DataRef

SHOWN = 8
MOST = 5000
"""Samples among which the worst are looked for, evenly spread."""
PREFIX = "worst_"


def worst_rows(task: FieldTask, statistics: Mapping[str, np.ndarray]) -> dict[int, float]:
    """Return the worst samples of a test split, with the main measure of each alone, the worst first.

    Empty if the measure of single samples tells nothing, since all are equal, or if it is no number.
    """
    samples = len(next(iter(statistics.values())))
    rows = np.unique(np.linspace(0, samples - 1, min(samples, MOST)).astype(int))
    tensors = {name: torch.from_numpy(values[rows].astype(np.float64)) for name, values in statistics.items()}
    values = np.array(
        [
            task.summarized({name: tensor[at] for name, tensor in tensors.items()}).get(task.main_measure, np.nan)
            for at in range(len(rows))
        ]
    )
    finite = np.flatnonzero(np.isfinite(values))
    if not len(finite) or np.ptp(values[finite]) == 0:
        return {}
    sign = 1.0 if task.better == "higher" else -1.0
    best = (sign * values[finite]).max()
    order = finite[np.argsort(sign * values[finite], kind="stable")[:SHOWN]]
    return {int(rows[at]): float(values[at]) for at in order if sign * values[at] < best}


def draw_worst(
    task: FieldTask, model: FieldsModel, test: FieldSamples, rows: list[int], folder: Path, usual: list[Path]
) -> list[Path]:
    """Write a task's pictures of its worst samples, without those that are equal to earlier ones.

    Args:
        usual: pictures of other samples.
    """
    if not rows:
        return []
    batch = task.drawn(model.prepared(test.take(torch.tensor(rows))))
    pictures = []
    with temporary_folder() as scratch:
        for path in task.draw(model, batch, scratch):
            if not any(path.name == drawn.name and filecmp.cmp(path, drawn, shallow=False) for drawn in usual):
                pictures.append(folder / f"{PREFIX}{path.name}")
                pictures[-1].write_bytes(path.read_bytes())
    return pictures


def told(worst: Mapping[int, float], data: DataRef) -> list[dict[str, Any]]:
    """Return the entries of ``evaluation.json``."""
    origins = read_origins(data.folder, "test", list(worst))
    return [{"sample": row, "origin": origins.get(row, ""), "value": value} for row, value in worst.items()]
