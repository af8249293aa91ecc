"""Two networks on the same test samples: how much better is the one than the other, and is that more than chance."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from torchmill.components.errors import UserError
from torchmill.components.evaluation.predictions import Predictions
from torchmill.components.metrics.calibration import losses
from torchmill.components.metrics.intervals import Z_95, Interval, bootstrap_intervals, mean_interval
from torchmill.components.refs import Task

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
    """Of the exact test (McNemar 1947, by the binomial distribution), two-sided."""


@dataclass(frozen=True)
class Pairing:
    samples: int
    differences: tuple[Difference, ...]
    mcnemar: McNemar | None
    """Of classifications alone."""
    only_first: tuple[int, ...]
    """Some samples that only the first answers rightly."""
    only_second: tuple[int, ...]

    def as_plain(self) -> dict[str, Any]:
        return asdict(self)


def pair(first: Predictions, second: Predictions, task: Task) -> Pairing:
    """Compare two networks sample by sample.

    Raises:
        UserError: they did not answer the same samples.
    """
    if first.truth.shape != second.truth.shape or not np.array_equal(first.truth, second.truth):
        raise UserError(
            f"The two runs were tested on other samples: {len(first.truth):,} of the one, {len(second.truth):,} of the "
            "other, with other truths.",
            "Compare runs on the same data set, or evaluate both on it: torchmill evaluate RUN --data NAME.",
        )
    if first.outputs.shape != second.outputs.shape:
        raise UserError("The two runs answer by other numbers of classes, labels or targets: nothing to compare.")
    match task:
        case "classification":
            return _of_classes(first, second)
        case "multilabel":
            return _of_labels(first, second)
        case _:
            return _of_targets(first, second)


def mcnemar(first_right: np.ndarray, second_right: np.ndarray) -> McNemar:
    """Test whether two classifiers are right equally often, by the samples on which they differ; bool, (N,)."""
    from scipy.stats import binomtest

    only_first, only_second = int((first_right & ~second_right).sum()), int((second_right & ~first_right).sum())
    differing = only_first + only_second
    p = float(binomtest(only_first, differing).pvalue) if differing else 1.0
    both = int((first_right & second_right).sum())
    return McNemar(only_first, only_second, both, len(first_right) - both - differing, p)


def difference_interval(found: McNemar) -> Interval:
    """Give the 95 % interval of the second's accuracy minus the first's, of paired samples.

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


def _of_classes(first: Predictions, second: Predictions) -> Pairing:
    truth = first.truth
    rights = [one.outputs.argmax(1) == truth for one in (first, second)]
    found = mcnemar(rights[0], rights[1])
    costs = [losses(one.outputs, truth) for one in (first, second)]
    after = [losses(one.outputs, truth, one.temperature) for one in (first, second)]
    shares = [float(right.mean()) for right in rights]
    return Pairing(
        samples=len(truth),
        differences=(
            Difference("accuracy", shares[0], shares[1], shares[1] - shares[0], difference_interval(found)),
            _of_macro_f1(first, second),
            _of_means("cross-entropy", costs),
            _of_means("cross-entropy after temperature", after),
        ),
        mcnemar=found,
        only_first=_some(rights[0] & ~rights[1]),
        only_second=_some(rights[1] & ~rights[0]),
    )


def _of_macro_f1(first: Predictions, second: Predictions) -> Difference:
    classes, rows = first.outputs.shape[1], np.arange(len(first.truth))
    answers = [one.outputs.argmax(1) for one in (first, second)]
    # What differs among samples are truth and both answers: each such triple, with how often it is.
    triples = np.stack([first.truth, *answers], 1)
    distinct, counts = np.unique(triples, axis=0, return_counts=True)
    found = np.zeros((len(distinct), 5 * classes))  # per class: samples, and of each network right ones and answers
    rows = np.arange(len(distinct))
    found[rows, distinct[:, 0]] = 1
    for number in (1, 2):
        answered, start = distinct[:, number], (2 * number - 1) * classes
        right = answered == distinct[:, 0]
        found[rows[right], start + answered[right]] = 1
        found[rows, start + classes + answered] = 1

    def macro(sums: np.ndarray) -> np.ndarray:
        parts = [sums[..., start : start + classes] for start in range(0, 5 * classes, classes)]
        support, *rest = parts
        f1 = [(2 * rest[at] / np.maximum(support + rest[at + 1], 1)).mean(-1) for at in (0, 2)]
        return np.stack([*f1, f1[1] - f1[0]], -1)

    one, other, change = map(float, macro(counts @ found))
    low, high = bootstrap_intervals(found, lambda sums: macro(sums)[..., 2:], counts)[0]
    return Difference("macro F1", one, other, change, (float(low), float(high)))


def _of_means(name: str, scores: Sequence[np.ndarray], more_is_better: bool = False) -> Difference:
    first, second = scores
    change = second.astype(np.float64) - first
    return Difference(
        name, float(first.mean()), float(second.mean()), float(change.mean()), mean_interval(change), more_is_better
    )


def _of_labels(first: Predictions, second: Predictions) -> Pairing:
    truth = first.truth > 0.5
    shares = [((one.outputs > 0) == truth).mean(1) for one in (first, second)]
    alls = [share == 1 for share in shares]
    found = mcnemar(alls[0], alls[1])
    exact = [float(right.mean()) for right in alls]
    return Pairing(
        samples=len(truth),
        differences=(
            _of_means("label accuracy", shares, more_is_better=True),
            Difference("all labels right", exact[0], exact[1], exact[1] - exact[0], difference_interval(found)),
        ),
        mcnemar=found,
        only_first=_some(alls[0] & ~alls[1]),
        only_second=_some(alls[1] & ~alls[0]),
    )


def _of_targets(first: Predictions, second: Predictions) -> Pairing:
    truth = first.truth.astype(np.float64)
    spread = np.where(truth.std(0) > 0, truth.std(0), 1.0)
    errors = [np.abs(one.outputs - truth) / spread for one in (first, second)]
    better = errors[1].mean(1) - errors[0].mean(1)
    order = np.argsort(better, kind="stable")
    return Pairing(
        samples=len(truth),
        differences=(
            _of_means("absolute error, in deviations", [error.mean(1) for error in errors]),
            _of_means("squared error, in deviations", [(error**2).mean(1) for error in errors]),
        ),
        mcnemar=None,
        only_first=tuple(order[::-1][:MOST_SHOWN].tolist()),
        only_second=tuple(order[:MOST_SHOWN].tolist()),
    )


def _some(chosen: np.ndarray) -> tuple[int, ...]:
    return tuple(np.flatnonzero(chosen)[:MOST_SHOWN].tolist())
