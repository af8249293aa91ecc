"""Is a network as often right as it says it is: calibration, and one number that mends it."""

from dataclasses import dataclass

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax

from torchmill.components.metrics.intervals import Interval, mean_interval, wilson_interval

BINS = 15
"""Of equal width, as in Guo et al. 2017, with whose numbers ours can so be compared."""

COLDEST, HOTTEST = 0.05, 20.0

LARGEST_FACTOR, HALVINGS, SIMULATED = 10.0, 10, 2000


@dataclass(frozen=True)
class Bin:
    """Samples of like confidence."""

    low: float
    high: float
    samples: int
    confidence: float
    """Mean of what the network says."""
    accuracy: float
    """Share that is right."""
    accuracy_95: tuple[float, float]


def reliability(confidence: np.ndarray, right: np.ndarray) -> list[Bin]:
    """Sort samples into bins of equal width by confidence; those without samples are left out.

    Args:
        confidence: 0…1, (N,).
        right: bool, (N,).
    """
    place = np.minimum((confidence * BINS).astype(int), BINS - 1)
    bins = []
    for number in np.unique(place).tolist():
        held = place == number
        samples, hits = int(held.sum()), int(right[held].sum())
        bins.append(
            Bin(
                low=number / BINS,
                high=(number + 1) / BINS,
                samples=samples,
                confidence=float(confidence[held].mean()),
                accuracy=hits / samples,
                accuracy_95=wilson_interval(hits, samples),
            )
        )
    return bins


def expected_calibration_error(bins: list[Bin]) -> float:
    """Give the mean of |confidence - accuracy| over samples, bin by bin (Naeini et al. 2015).

    It is above 0 even for a network that is perfectly calibrated, the more the fewer samples there are.
    """
    samples = sum(one.samples for one in bins)
    return sum(one.samples * abs(one.confidence - one.accuracy) for one in bins) / samples


def calibration_error_interval(bins: list[Bin]) -> Interval:
    """Give the 95 % interval of the expected calibration error; always the same.

    The error that is seen lies above the true one, and resampling would add to that. So all gaps between confidence
    and accuracy are scaled by a factor, from none at all: the ends are the least and the largest whose simulated test
    sets, of as many samples in each bin, show the error that is seen within the middle 95 % of theirs.
    """
    counts = np.array([one.samples for one in bins])
    confidence, accuracy = (np.array([getattr(one, name) for one in bins]) for name in ("confidence", "accuracy"))
    shares, seen = counts / counts.sum(), expected_calibration_error(bins)

    def supposed(factor: float) -> np.ndarray:
        return np.clip(confidence + factor * (accuracy - confidence), 0, 1)

    def below(factor: float) -> float:
        drawn = np.random.default_rng(0).binomial(counts, supposed(factor), (SIMULATED, len(counts))) / counts
        return float((np.abs(drawn - confidence) @ shares <= seen).mean())

    ends = []
    for level in (0.975, 0.025):
        least, most = 0.0, LARGEST_FACTOR
        for _ in range(HALVINGS if below(least) > level else 0):
            middle = (least + most) / 2
            least, most = (middle, most) if below(middle) > level else (least, middle)
        ends.append(float(np.abs(supposed(least) - confidence) @ shares))
    return min(ends[0], seen), max(ends[1], seen)


def fit_temperature(logits: np.ndarray, labels: np.ndarray) -> float:
    """Give the temperature by which logits are divided so that the cross-entropy is least (Guo et al. 2017).

    The cross-entropy is convex in 1/T, so that there is one minimum, which Brent's method finds between 1/20 and 20.
    1 where no answer is wrong: the cross-entropy would then fall for ever towards T = 0, and the samples say nothing
    about how sure the network may be.

    Args:
        logits: of samples that were not trained on, (N, K).
    """
    logits = logits.astype(np.float64)
    if logits.shape[1] < 2 or not np.isfinite(logits).all() or (logits.argmax(1) == labels).all():
        return 1.0
    found = minimize_scalar(
        lambda exponent: losses(logits, labels, float(np.exp(exponent))).mean(),
        bounds=(np.log(COLDEST), np.log(HOTTEST)),
        method="bounded",
        options={"xatol": 1e-6},
    )
    return float(np.exp(found.x))


def losses(logits: np.ndarray, labels: np.ndarray, temperature: float = 1.0) -> np.ndarray:
    """Give the cross-entropy of each sample in nats, (N,)."""
    return -log_softmax(logits.astype(np.float64) / temperature, axis=1)[np.arange(len(labels)), labels]


def confidences(logits: np.ndarray, temperature: float = 1.0) -> np.ndarray:
    """Give the probability that each answer is given, (N,)."""
    return np.exp(log_softmax(logits.astype(np.float64) / temperature, axis=1).max(1))


def loss_change(logits: np.ndarray, labels: np.ndarray, temperature: float) -> tuple[float, tuple[float, float]]:
    """Give by how much a temperature changes the mean cross-entropy, with the 95 % interval of the paired change."""
    change = losses(logits, labels, temperature) - losses(logits, labels)
    return float(change.mean()), mean_interval(change)
