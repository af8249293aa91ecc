"""What wrong answers have in common: how often samples of a class, a brightness or a size are wrong."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from torchmill.components.data.samples import Samples
from torchmill.components.metrics.intervals import wilson_interval
from torchmill.components.refs import DataRef

MOST_CLASSES = 100
DOUBT = 0.05
"""How often, over all groups, one may be said to stand out that doesn't."""


@dataclass(frozen=True)
class Group:
    """Some of the test samples."""

    by: str
    """What they have in common: class, brightness, ink or length."""
    name: str
    samples: int
    errors: int
    rate: float
    rate_95: tuple[float, float]
    stands_out: bool
    """Differs from the other samples by more than chance would have it, with all groups looked at (Bonferroni)."""


def error_slices(wrong: np.ndarray, test: Samples, data: DataRef) -> list[Group]:
    """Count wrong answers by class and by thirds of what can be measured of an input.

    Args:
        wrong: bool, (N,).
    """
    from scipy.stats import fisher_exact

    held = [(by, name, chosen) for by, name, chosen in _groups(test, data) if 0 < chosen.sum() < len(wrong)]
    groups = []
    for by, name, chosen in held:
        inside, outside = wrong[chosen], wrong[~chosen]
        table = [[int(part.sum()), int((~part).sum())] for part in (inside, outside)]
        errors, samples = table[0][0], len(inside)
        groups.append(
            Group(
                by=by,
                name=name,
                samples=samples,
                errors=errors,
                rate=errors / samples,
                rate_95=wilson_interval(errors, samples),
                stands_out=bool(fisher_exact(table).pvalue < DOUBT / len(held)),
            )
        )
    return groups


def _groups(test: Samples, data: DataRef) -> Iterator[tuple[str, str, np.ndarray]]:
    """Give kind, name and members, bool (N,)."""
    if data.task_object.is_exclusive and len(data.classes) <= MOST_CLASSES:
        labels = test.labels.numpy()
        for number, name in enumerate(data.classes):
            yield "class", name, labels == number
    for by, unit, values in data.field.measures(test):
        for (low, high), chosen in thirds(values):
            yield by, f"{low:.3g} to {high:.3g}{unit}", chosen


def thirds(values: np.ndarray) -> Iterator[tuple[tuple[float, float], np.ndarray]]:
    """Divide samples into the lowest, middle and highest third; gives each one's range and members.

    Equal values stay together: there may be fewer thirds, or of other sizes.
    """
    edges = np.unique(np.quantile(values, [1 / 3, 2 / 3]))
    part = np.searchsorted(edges, values, side="left")
    for number in np.unique(part).tolist():
        chosen = part == number
        yield (float(values[chosen].min()), float(values[chosen].max())), chosen
