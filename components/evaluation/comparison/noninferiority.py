"""Is a challenger as good as the champion? Both answer the same test samples, and are compared sample by sample."""

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from statistics import NormalDist
from typing import Literal

import numpy as np

from torchmill.components import tasks
from torchmill.components.metrics.paired import mcnemar
from torchmill.components.tasks import shown, shown_difference
from torchmill.components.wording import count, percent

RESAMPLES = 2000

Outcome = Literal["promoted", "kept", "pending"]
"""The challenger is champion now; the champion stays; nobody could tell yet."""


@dataclass(frozen=True)
class Comparison:
    """A champion and a challenger on the same test samples."""

    method: str
    samples: int
    champion_score: float
    challenger_score: float
    """Both by the measure of the task: accuracy, share of right labels, R²."""
    advantage: float
    """Of the champion: its score less the challenger's."""
    advantage_high: float
    """Upper end of the one-sided interval of the advantage."""
    confidence: float
    """Of that interval."""
    p_value: float
    """Two-sided, of the hypothesis that both are equally good."""
    n01: int | None = None
    """Samples that the challenger alone gets right; None where answers are not right or wrong."""
    n10: int | None = None
    """Samples that the champion alone gets right."""


@dataclass(frozen=True)
class Verdict:
    """What becomes of a challenger, and why."""

    outcome: Outcome
    reason: str
    """In words, for people; it begins in lower case and has no full stop."""
    comparison: Comparison | None = None
    """None where there was nothing to compare, or no way to."""
    margin: float | None = None

    def tags(self) -> dict[str, str]:
        """Give outcome, reason and all numbers as tags."""
        held = {"outcome": self.outcome, "reason": self.reason}
        if self.comparison:
            numbers = {**asdict(self.comparison), "margin": self.margin}
            held |= {name: _text(value) for name, value in numbers.items() if value is not None}
        return {f"promotion.{name}": value for name, value in held.items()}

    def as_json(self, **more: object) -> str:
        """Give it as JSON, with ``more`` in front."""
        return json.dumps({**more, **asdict(self)}, indent=1)


def _text(value: object) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def sample_scores(task: str, outputs: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Score each answer so that the mean over samples is the main measure of the task.

    Args:
        outputs: logits or values, (N, K).
        truth: classes (N,), yes and no as 1 and 0 (N, K), or targets (N, K) in the units of the values.

    Returns:
        Of answers that are right or wrong bool, (N,). Otherwise float64, (N,): the share of right labels; or 1 - e²/v
        with the error e and the variance v of the targets over all samples, averaged over the targets.
    """
    chosen = tasks.task(task)
    return chosen.measure(outputs, truth)[chosen.main_measure]


def compare(champion: np.ndarray, challenger: np.ndarray, confidence: float) -> Comparison:
    """Compare two models by their scores of the same samples, as ``sample_scores`` gives them.

    Right and wrong answers: McNemar's test in its exact form, as Dietterich (1998) recommends it for two classifiers
    and one test set, and Tango's score interval (1998) of the difference of paired shares, which also holds where few
    or no samples are discordant. Other scores: a paired bootstrap (Efron 1979), always by the same resamples.
    """
    if champion.shape != challenger.shape or not champion.size:
        raise ValueError(f"scores of {champion.shape} and {challenger.shape} are not pairs")
    advantage = float(champion.mean() - challenger.mean())
    counts: dict[str, int] = {}
    if champion.dtype == bool:
        n10, n01 = int((champion & ~challenger).sum()), int((challenger & ~champion).sum())
        method, counts = "exact McNemar test, Tango's interval", {"n01": n01, "n10": n10}
        high, p_value = tango_upper(n10, n01, len(champion), confidence), mcnemar(champion, challenger).p
    else:
        method = f"paired bootstrap, {RESAMPLES} resamples"
        means = _resampled_means(champion - challenger)
        high = float(np.quantile(means, confidence))
        p_value = min(1.0, 2 * float(min((means <= 0).mean(), (means >= 0).mean())))
    return Comparison(
        method=method,
        samples=len(champion),
        champion_score=float(champion.mean()),
        challenger_score=float(challenger.mean()),
        advantage=advantage,
        advantage_high=high,
        confidence=confidence,
        p_value=p_value,
        **counts,
    )


def judge(comparison: Comparison, gates: Mapping[str, bool], margin: float, measure: str) -> Verdict:
    """Promote a challenger that passed its gates, is surely not worse by ``margin``, and has no lower score."""
    low, high = (shown(measure, value) for value in (comparison.champion_score, comparison.challenger_score))
    told = f"{measure.replace('_', ' ')} {high} beside the champion's {low}"
    against = [f"it failed: {name}" for name, passed in gates.items() if not passed]
    if comparison.advantage > 0:
        against.append("its score is lower")
    if comparison.advantage_high >= margin:
        sure = percent(comparison.confidence, 0)
        against.append(
            f"that it is not worse by {shown_difference(measure, margin)} or more is not {sure} sure: "
            f"by up to {shown_difference(measure, comparison.advantage_high)} on {count(comparison.samples, 'sample')}"
        )
    if against:
        return Verdict("kept", f"{told}; {'; '.join(against)}", comparison, margin)
    return Verdict("promoted", told, comparison, margin)


def tango_upper(n10: int, n01: int, samples: int, confidence: float) -> float:
    """Give the upper end of the one-sided score interval of (n10 - n01) / samples.

    The largest difference that a score test does not reject (Tango, Statistics in Medicine 17, 1998). The test's
    statistic falls with the difference, so that bisection finds it.
    """
    if not samples or min(n10, n01) < 0 or n10 + n01 > samples:
        raise ValueError(f"{n10} and {n01} of {samples} are no discordant pairs")
    z = NormalDist().inv_cdf(confidence)

    def rejects(difference: float) -> bool:
        b = -n10 - n01 + (2 * samples - n10 + n01) * difference
        c = -n01 * difference * (1 - difference)
        share = (math.sqrt(max(0.0, b * b - 8 * samples * c)) - b) / (4 * samples)  # of n01, given the difference
        variance = samples * (2 * share + difference * (1 - difference))
        return n10 - n01 - samples * difference < -z * math.sqrt(max(0.0, variance))

    low, high = (n10 - n01) / samples, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (low, middle) if rejects(middle) else (middle, high)
    return high


def _resampled_means(differences: np.ndarray) -> np.ndarray:
    rng = np.random.default_rng(0)
    count = len(differences)
    return np.array([differences[rng.integers(0, count, count)].mean() for _ in range(RESAMPLES)])
