"""Statistics of two networks on the same samples: differences with intervals, and McNemar's test."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from torchmill.components.metrics.intervals import Z_95, Interval, mean_interval

MOST_SHOWN = 20


@dataclass(frozen=True)
class Difference:
    """A measure of both, and the second's minus the first's."""

    measure: str
    first: float
    second: float
    difference: float
    difference_95: Interval
    """Paired, over samples; where 0 is in it, the samples do not tell the two apart."""
    more_is_better: bool = True

    @property
    def verdict(self) -> str:
        """``better``, ``worse`` or ``not told apart``: the second beside the first."""
        low, high = self.difference_95
        if low <= 0 <= high:
            return "not told apart"
        return "better" if (low > 0) == self.more_is_better else "worse"


@dataclass(frozen=True)
class McNemar:
    """Samples that only one of two classifiers answers rightly, and how odd that would be if both were as good."""

    only_first: int
    only_second: int
    both: int
    neither: int
    p: float
    """p-value of the exact test (McNemar 1947, by the binomial distribution), two-sided."""


@dataclass(frozen=True)
class Pairing:
    samples: int
    differences: tuple[Difference, ...]
    mcnemar: McNemar | None
    """Test of answers that are right or wrong; None of numbers."""
    only_first: tuple[int, ...]
    """Some samples that only the first answers rightly."""
    only_second: tuple[int, ...]

    def as_plain(self) -> dict[str, Any]:
        return asdict(self)


def mcnemar(first_right: np.ndarray, second_right: np.ndarray) -> McNemar:
    """Test whether two classifiers are right equally often, by the samples on which they differ; bool, (N,)."""
    from scipy.stats import binomtest

    only_first, only_second = int((first_right & ~second_right).sum()), int((second_right & ~first_right).sum())
    differing = only_first + only_second
    p = float(binomtest(only_first, differing).pvalue) if differing else 1.0
    both = int((first_right & second_right).sum())
    return McNemar(only_first, only_second, both, len(first_right) - both - differing, p)


def difference_interval(found: McNemar) -> Interval:
    """Return the 95 % interval of the second's accuracy minus the first's, of paired samples.

    Wald's with two differing samples added, one on each side (Agresti & Min 2005), which is of some width where the
    two differ on none; widened to the exact interval (Clopper & Pearson 1934) of who is right where they differ. So
    0 is outside of it only if McNemar's exact test says so, too, at the price of holding more than 95 %.
    """
    from scipy.stats import binomtest

    differing = found.only_first + found.only_second
    samples = differing + found.both + found.neither
    first, second, padded = found.only_first + 0.5, found.only_second + 0.5, samples + 2
    change = (second - first) / padded
    half = Z_95 * math.sqrt(first + second - (second - first) ** 2 / padded) / padded
    low, high = change - half, change + half
    if differing:
        exact = binomtest(found.only_second, differing).proportion_ci()
        low = min(low, (2 * exact.low - 1) * differing / samples)
        high = max(high, (2 * exact.high - 1) * differing / samples)
    return float(max(-1, low)), float(min(1, high))


def difference_of_means(name: str, scores: Sequence[np.ndarray], more_is_better: bool = False) -> Difference:
    """Return the difference of two means over the same samples; both scores (N,)."""
    first, second = scores
    change = second.astype(np.float64) - first
    return Difference(
        name, float(first.mean()), float(second.mean()), float(change.mean()), mean_interval(change), more_is_better
    )


def first_rows(chosen: np.ndarray) -> tuple[int, ...]:
    """Return the first rows that are chosen; bool, (N,)."""
    return tuple(np.flatnonzero(chosen)[:MOST_SHOWN].tolist())
