"""Non-inferiority test of a challenger against the champion, paired by test sample."""

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
from torchmill.components.wording import count

MOST_TIMES = 1000
"""Largest multiple of the samples at hand for which it is said that they would decide."""
MOST_CONTESTS = 1_000_000
RESAMPLES = 2000
BEYOND = 10
"""Resamples that must lie beyond an end of an interval; with fewer, the normal distribution gives the end."""

Outcome = Literal["promoted", "kept", "pending"]
"""``promoted``: the challenger is the champion now; ``kept``: the champion stays; ``pending``: not decided yet."""


@dataclass(frozen=True)
class Comparison:
    """Scores of a champion and a challenger on the same test samples."""

    method: str
    samples: int
    champion_score: float
    challenger_score: float
    """Score by the main measure of the task, like the champion's: accuracy, share of right labels, R²."""
    advantage: float
    """Champion's score minus the challenger's."""
    advantage_high: float
    """Upper end of the one-sided interval of the advantage."""
    confidence: float
    """Confidence level of that interval."""
    p_value: float
    """Two-sided p-value of the hypothesis that both are equally good."""
    n01: int | None = None
    """Samples that only the challenger gets right; None if answers are not simply right or wrong."""
    n10: int | None = None
    """Samples that only the champion gets right."""
    contest: int = 1
    """Number of this contest among those that the test split has decided, from 1."""
    left_out: int = 0
    """Test samples that are not among ``samples``, since one of the two was trained on them."""


@dataclass(frozen=True)
class Verdict:
    """Decision about a challenger, with its reason."""

    outcome: Outcome
    reason: str
    """Reason in words, in lower case and without a full stop."""
    comparison: Comparison | None = None
    """Comparison that decided; None if there was nothing to compare."""
    margin: float | None = None

    def tags(self) -> dict[str, str]:
        """Return outcome, reason and all numbers as tags."""
        values = {"outcome": self.outcome, "reason": self.reason}
        if self.comparison:
            numbers = {**asdict(self.comparison), "margin": self.margin}
            values |= {name: _text(value) for name, value in numbers.items() if value is not None}
        return {f"promotion.{name}": value for name, value in values.items()}

    def as_json(self, **more: object) -> str:
        """Return the verdict as JSON, after the fields in ``more``."""
        return json.dumps({**more, **asdict(self)}, indent=1)


def _text(value: object) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def sample_scores(task: str, outputs: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Score each answer so that the mean over samples is the main measure of the task.

    Args:
        outputs: logits or values, (N, K).
        truth: classes (N,), yes and no as 1 and 0 (N, K), or targets (N, K) in the units of the values.

    Returns:
        For answers that are right or wrong, bool (N,). Otherwise float64 (N,): the share of right labels, or 1 - e²/v
        averaged over targets, with the error e of the sample and the variance v of the target over all samples.
    """
    chosen = tasks.task(task)
    return chosen.measure(outputs, truth)[chosen.main_measure]


def compare(champion: np.ndarray, challenger: np.ndarray, confidence: float) -> Comparison:
    """Compare two models by their scores of the same samples, as ``sample_scores`` gives them.

    Right and wrong answers take McNemar's exact test, which Dietterich (1998) recommends for two classifiers and one
    test set. Their interval is Tango's score interval (1998) of a difference of paired shares; it has its coverage
    even if few samples are discordant. Other scores take a paired bootstrap (Efron 1979) with a fixed seed.
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
        if (1 - confidence) * RESAMPLES < BEYOND:
            high = max(high, advantage + NormalDist().inv_cdf(confidence) * float(means.std()))
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


def judge(
    comparison: Comparison, gates: Mapping[str, bool], margin: float, measure: str, worse: str = "lower"
) -> Verdict:
    """Promote a challenger that passed its gates, is not worse by ``margin`` with confidence, and scores no lower.

    Args:
        worse: word for a worse score: that of an error is higher.
    """
    low, high = (shown(measure, value) for value in (comparison.champion_score, comparison.challenger_score))
    scores = f"{measure.replace('_', ' ')} {high} against the champion's {low}"
    against = [f"it failed: {name}" for name, passed in gates.items() if not passed]
    if comparison.advantage > 0:
        against.append(f"its score is {worse}")
    if comparison.advantage_high >= margin:
        sure = confidence_words(comparison.confidence)
        against.append(
            f"it may be worse by {shown_difference(measure, margin)} or more, at {sure} confidence: "
            f"by up to {shown_difference(measure, comparison.advantage_high)} on {count(comparison.samples, 'sample')}"
            f"{_enough(comparison, margin)}"
        )
    if against:
        return Verdict("kept", f"{scores}; {'; '.join(against)}", comparison, margin)
    return Verdict("promoted", scores, comparison, margin)


def confidence_of(confidence: float, contest: int) -> float:
    """Return the level at which a contest is judged, so that all on one test split err as seldom as one alone would.

    Contest number k may err at the rate 6α/(π²k²), and these rates sum to α over all k (Bonferroni's inequality with
    the Basel series). So the number of contests needs no plan.

    Example:
        >>> [round(confidence_of(0.95, contest), 4) for contest in (1, 2, 5)]
        [0.9696, 0.9924, 0.9988]
    """
    return 1 - 6 * (1 - confidence) / (math.pi * contest) ** 2


def most_contests(samples: int, confidence: float, margin: float) -> int:
    """Return the number of contests between models with equal answers that a test split can decide.

    Without discordant pairs, Tango's interval ends at z²/(n + z²).
    """
    tail = NormalDist().cdf(-math.sqrt(samples * margin / (1 - margin)))
    return math.ceil(math.sqrt(6 * (1 - confidence) / tail) / math.pi) - 1 if tail else MOST_CONTESTS


def confidence_words(confidence: float) -> str:
    """Return a level in per cent, rounded down, with the digits that tell it from certainty.

    Example:
        >>> confidence_words(0.95), confidence_words(0.99878)
        ('95 %', '99.8 %')
    """
    digits = max(1, -math.floor(math.log10(max(1 - confidence, 1e-12))) - 2)
    cut = math.floor(round(confidence * 10 ** (digits + 2), 6)) / 10 ** (digits + 2)
    return f"{f'{100 * cut:.{digits}f}'.rstrip('0').rstrip('.')} %"


def note_on_contests(comparison: Comparison, confidence: float, margin: float) -> str:
    """Return in words that the test split has decided before; empty if it hasn't.

    Args:
        confidence: level of all contests together.
    """
    before = comparison.contest - 1
    if not before:
        return ""
    levels = f"{confidence_words(comparison.confidence)} confidence rather than {confidence_words(confidence)}"
    note = f"this test split has decided {count(before, 'contest')} before: judged at {levels}"
    if comparison.n01 is not None and before >= (most := most_contests(comparison.samples, confidence, margin)) > 0:
        note += f"; {comparison.samples:,} samples decide {count(most, 'contest')} of equals, so get fresh test samples"
    return note


def _enough(comparison: Comparison, margin: float) -> str:
    """Return in words how many samples would decide for the challenger, if they came out as these did."""
    if comparison.advantage > 0:  # then it scores lower, on however many
        return ""
    if samples := samples_needed(comparison, margin):
        return f"; about {samples:,} like these would be enough"
    return ""


def samples_needed(comparison: Comparison, margin: float) -> int | None:
    """Return the least number of samples at which the same shares would exclude a loss by the margin.

    None if no number up to a thousand times as many does. The bootstrap's interval narrows by the square root.

    Example:
        >>> samples_needed(compare(np.ones(355, bool), np.ones(355, bool), 0.95), 0.005)
        539
    """
    if comparison.n01 is None or comparison.n10 is None:
        gap = margin - comparison.advantage
        factor = ((comparison.advantage_high - comparison.advantage) / gap) ** 2 if gap > 0 else math.inf
        return math.ceil(comparison.samples * factor) if factor <= MOST_TIMES else None
    low, high = comparison.samples, MOST_TIMES * comparison.samples
    shares = comparison.n10 / low, comparison.n01 / low

    def is_enough(samples: int) -> bool:
        return tango_upper(shares[0] * samples, shares[1] * samples, samples, comparison.confidence) < margin

    if not is_enough(high):
        return None
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if is_enough(middle) else (middle + 1, high)
    return low


def tango_upper(n10: float, n01: float, samples: int, confidence: float) -> float:
    """Return the upper end of the one-sided score interval of (n10 - n01) / samples.

    It is the largest difference that a score test does not reject (Tango, Statistics in Medicine 17, 1998). The
    statistic falls with the difference, so bisection finds it.
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
