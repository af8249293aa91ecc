"""Calibration: is a network right as often as its probabilities say? And the temperature that corrects it."""

import functools
from dataclasses import dataclass

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax

from torchmill.components.metrics.intervals import Interval, mean_interval, wilson_interval

BINS = 15
"""Number of bins of equal width, as in Guo et al. 2017, so that numbers compare."""

COLDEST, HOTTEST = 0.05, 20.0

LARGEST_FACTOR, HALVINGS, SIMULATED = 10.0, 10, 2000


@dataclass(frozen=True)
class Bin:
    """Samples of similar confidence."""

    low: float
    high: float
    samples: int
    confidence: float
    """Mean probability of the answer."""
    accuracy: float
    """Share of right answers."""
    accuracy_95: tuple[float, float]


def reliability(confidence: np.ndarray, right: np.ndarray) -> list[Bin]:
    """Sort samples into bins of equal width by confidence; empty bins are left out.

    Args:
        confidence: 0…1, (N,).
        right: bool, (N,).
    """
    place = np.minimum((confidence * BINS).astype(int), BINS - 1)
    bins = []
    for number in np.unique(place).tolist():
        members = place == number
        samples, hits = int(members.sum()), int(right[members].sum())
        bins.append(
            Bin(
                low=number / BINS,
                high=(number + 1) / BINS,
                samples=samples,
                confidence=float(confidence[members].mean()),
                accuracy=hits / samples,
                accuracy_95=wilson_interval(hits, samples),
            )
        )
    return bins


def expected_calibration_error(bins: list[Bin]) -> float:
    """Return the mean of |confidence - accuracy| over samples, bin by bin (Naeini et al. 2015).

    It is biased upwards: even a perfectly calibrated network has an error above 0, more so with few samples.
    """
    samples = sum(group.samples for group in bins)
    return sum(group.samples * abs(group.confidence - group.accuracy) for group in bins) / samples


def calibration_error_interval(bins: list[Bin]) -> Interval:
    """Return the 95 % interval of the expected calibration error, with a fixed seed.

    The observed error is biased upwards, and resampling would add to the bias. So the test is inverted. All gaps
    between confidence and accuracy are scaled by one factor. The ends are the smallest and the largest factor at which
    the observed error is within the middle 95 % of simulated test sets with the same bin sizes.
    """
    counts = np.array([group.samples for group in bins])
    confidence, accuracy = (np.array([getattr(group, name) for group in bins]) for name in ("confidence", "accuracy"))
    shares, observed = counts / counts.sum(), expected_calibration_error(bins)

    def scaled(factor: float) -> np.ndarray:
        return np.clip(confidence + factor * (accuracy - confidence), 0, 1)

    @functools.cache  # both ends are looked for from the same factors on
    def below(factor: float) -> float:
        drawn = np.random.default_rng(0).binomial(counts, scaled(factor), (SIMULATED, len(counts))) / counts
        return float((np.abs(drawn - confidence) @ shares <= observed).mean())

    ends = []
    for level in (0.975, 0.025):
        least, most = 0.0, LARGEST_FACTOR
        for _ in range(HALVINGS if below(least) > level else 0):
            middle = (least + most) / 2
            least, most = (middle, most) if below(middle) > level else (least, middle)
        ends.append(float(np.abs(scaled(least) - confidence) @ shares))
    return min(ends[0], observed), max(ends[1], observed)


def fit_temperature(logits: np.ndarray, labels: np.ndarray) -> float:
    """Return the temperature that minimises the cross-entropy of logits / temperature (Guo et al. 2017).

    The cross-entropy is convex in 1/T, so there is one minimum. Brent's method finds it between 1/20 and 20. If no
    answer is wrong, the cross-entropy has no minimum above T = 0, and the temperature is 1.

    Args:
        logits: (N, K), of samples that the network was not trained on.
        labels: true classes, (N,).
    """
    logits = logits.astype(np.float64)
    if logits.shape[1] < 2 or not np.isfinite(logits).all() or (logits.argmax(1) == labels).all():
        return 1.0
    minimum = minimize_scalar(
        lambda exponent: losses(logits, labels, float(np.exp(exponent))).mean(),
        bounds=(np.log(COLDEST), np.log(HOTTEST)),
        method="bounded",
        options={"xatol": 1e-6},
    )
    return float(np.exp(minimum.x))


def losses(logits: np.ndarray, labels: np.ndarray, temperature: float = 1.0) -> np.ndarray:
    """Return the cross-entropy of each sample in nats, (N,)."""
    return -log_softmax(logits.astype(np.float64) / temperature, axis=1)[np.arange(len(labels)), labels]


def confidences(logits: np.ndarray, temperature: float = 1.0) -> np.ndarray:
    """Return the probability of each answer, (N,)."""
    return np.exp(log_softmax(logits.astype(np.float64) / temperature, axis=1).max(1))


def loss_change(logits: np.ndarray, labels: np.ndarray, temperature: float) -> tuple[float, tuple[float, float]]:
    """Return the change of the mean cross-entropy by a temperature, with its paired 95 % interval."""
    change = losses(logits, labels, temperature) - losses(logits, labels)
    return float(change.mean()), mean_interval(change)
