"""Test windows of a series that share steps with training windows: a random cut of overlapping windows leaks."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from torchmill.components.batches.field_refs import FieldRef

RUN = 16
"""Steps in a row that must be equal, or half of the shortest window."""

FEWEST = 4
"""Fewest such steps, and fewest different values among them: silence and padding are alike everywhere."""

MOST_TEST, BLOCK = 2000, 1024
"""Test windows that are looked for, evenly spread, and training windows that are read at a time."""

FACTOR = np.uint64(0x9E3779B97F4A7C15)


@dataclass(frozen=True)
class Overlaps:
    """Test windows with steps that a training window has, too."""

    rows: np.ndarray
    """Rows of the test split."""
    others: np.ndarray
    """Row of a training window for each."""
    searched: np.ndarray
    """Rows of the test windows that were looked for."""
    run: int
    """Steps in a row that are equal."""


def time_field(fields: Sequence[FieldRef]) -> FieldRef | None:
    """Return the field whose windows may overlap: a target that is a series, or else the longest input of numbers.

    The history of a window may be known before it is forecast, but its target may not.
    """
    series = [field for field in fields if field.kind == "values" and field.shape and _steps(field) >= 2 * FEWEST]
    targets = [field for field in series if field.is_target]
    if targets or any(field.is_target and field.kind == "values" and field.season for field in fields):
        return max(targets, key=_steps, default=None)
    return max(series, key=_steps, default=None)


def overlaps(train: np.ndarray, test: np.ndarray, field: FieldRef, lengths: Mapping[str, np.ndarray]) -> Overlaps:
    """Return the test windows that share a run of steps with a training window, at any two places.

    The first, the middle and the last run of each test window are looked for at every place of every training window;
    a window that overlaps another by half shares one of them. The time is linear in the training windows.

    Args:
        train: values (N, …).
        test: values (M, …).
        lengths: lengths (N,) of the windows by split, if they differ.
    """
    rows = np.unique(np.linspace(0, len(test) - 1, min(len(test), MOST_TEST)).astype(int))
    steps = _steps(field)
    run = max(FEWEST, min(RUN, steps // 2))
    ends = np.asarray(lengths["test"])[rows] if "test" in lengths else np.full(len(rows), steps)
    hashes, varied = _runs(test[rows], run)
    probes, owners = [], []
    for start in (np.zeros_like(ends), (ends - run) // 2, ends - run):
        windows = np.flatnonzero(start >= 0)
        at = start[windows]
        good = varied[windows, at]
        probes.append(hashes[windows, at][good])
        owners.append(windows[good])
    probe, owner = np.concatenate(probes), np.concatenate(owners)
    order = np.argsort(probe, kind="stable")
    probe, owner = probe[order], owner[order]
    partners = np.full(len(rows), -1)
    for begin in range(0, len(train), BLOCK) if len(probe) else ():
        block, _ = _runs(train[begin : begin + BLOCK], run)
        first, last = (np.searchsorted(probe, block, side) for side in ("left", "right"))
        for window in np.flatnonzero((last > first).any(1)).tolist():
            hits = np.flatnonzero(last[window] > first[window])
            for hit in hits.tolist():
                partners[owner[first[window, hit] : last[window, hit]]] = begin + window
    overlap = partners >= 0
    return Overlaps(rows[overlap], partners[overlap], rows, run)


def _steps(field: FieldRef) -> int:
    return max(field.shape)


def _runs(windows: np.ndarray, run: int) -> tuple[np.ndarray, np.ndarray]:
    """Return a hash of each run of steps, uint64 (N, places), and whether it has enough different steps."""
    axis = 1 + int(np.argmax(windows.shape[1:]))
    moved = np.moveaxis(windows, axis, 1).reshape(len(windows), windows.shape[axis], -1)
    bits = np.ascontiguousarray(moved.astype(np.float32) + 0.0).view(np.uint32).astype(np.uint64)  # -0 becomes 0
    steps = np.zeros(bits.shape[:2], np.uint64)
    for channel in range(bits.shape[2]):
        steps = _mixed(steps * FACTOR + bits[:, :, channel])
    places = steps.shape[1] - run + 1
    hashes, changes = np.zeros((len(steps), places), np.uint64), np.zeros((len(steps), places), np.int32)
    differs = np.diff(steps, axis=1) != 0
    for offset in range(run):
        hashes = _mixed(hashes * FACTOR + steps[:, offset : offset + places])
        if offset:
            changes += differs[:, offset - 1 : offset - 1 + places]
    return hashes, changes >= FEWEST - 1


def _mixed(values: np.ndarray) -> np.ndarray:
    """Return a bijection of 64-bit numbers that spreads each bit over all (Steele et al. 2014, splitmix64)."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))
