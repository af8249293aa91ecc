"""Drift at tasks over named fields: the means of inputs beside those of training, which the model's file holds."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from torchmill.components.batches.field_refs import FieldRef
from torchmill.components.prediction.drift import judged

MOST = 4096
"""Samples that are compared, the first ones."""


@dataclass(frozen=True)
class Likeness:
    """How inputs differ from those of training."""

    words: str
    """In words; empty if the model takes no numbers."""
    is_far: bool
    note: dict[str, Any]
    """Means and shifts by field."""


def likeness_of(fields: Sequence[FieldRef], arrays: Mapping[str, np.ndarray]) -> Likeness:
    """Compare the mean of each channel or feature with training's, in training deviations.

    Args:
        arrays: inputs (N, …) by name, in the fields' own units.
    """
    means = {
        field.name: _means(field, arrays[field.name][:MOST], arrays.get(field.lengths))
        for field in fields
        if field.kind in ("image", "values") and field.mean and field.name in arrays
    }
    samples = min(MOST, *(len(values) for values in arrays.values()))
    if not means:
        return Likeness("", False, {"samples": samples, "fields": {}})
    usual = {field.name: (np.array(field.mean), np.array(field.std)) for field in fields if field.name in means}
    shifts = {
        name: (mean - usual[name][0]) / np.where(usual[name][1] > 0, usual[name][1], 1) for name, mean in means.items()
    }
    worst = max(shifts, key=lambda name: float(np.abs(shifts[name]).max()))
    place = int(np.abs(shifts[worst]).argmax())
    off = abs(float(shifts[worst][place]))
    which = f"'{worst}'{f' {place}' * (len(shifts[worst]) > 1)}"
    is_far, words = judged(off, samples, f"the mean of {which} is {off:.2f} training deviations off")
    note = {name: {"mean": means[name].tolist(), "shift": shifts[name].tolist()} for name in means}
    return Likeness(words, is_far, {"samples": samples, "is_far": is_far, "words": words, "fields": note})


def _means(field: FieldRef, values: np.ndarray, lengths: np.ndarray | None) -> np.ndarray:
    """Return the mean of each channel or feature, float64; of ragged samples that of their steps alone."""
    if field.ragged and lengths is not None:
        steps = np.arange(values.shape[1]) < lengths[: len(values), None]
        return values[steps].reshape(int(steps.sum()), -1).mean(0, np.float64)
    channels = values.reshape(len(values), values.shape[1] if values.ndim > 1 else 1, -1)
    return channels.mean((0, 2), np.float64)
