"""95 % intervals of proportions (Wilson), and of statistics of sums over samples (bootstrap)."""

import functools
import math
from collections.abc import Callable, Iterable, Iterator

import numpy as np
from scipy.sparse import csr_array
from scipy.special import ndtr, ndtri

Z_95 = 1.959963984540054  # standard normal quantile of 97.5 %

RESAMPLES = 2000
FEW = 1000
"""Number of samples up to which the draws are kept: at most 16 MB."""
MANY = 20_000
"""Number of samples above which the normal interval is as accurate as resampling."""

Interval = tuple[float, float]

Statistic = Callable[[np.ndarray], np.ndarray]
"""Function from sums over samples (…, k) to statistics (…, m)."""


def wilson_interval(right: float, samples: float) -> Interval:
    """Return the 95 % score interval of a proportion (Wilson 1927).

    Unlike ±1.96 standard errors, it has its coverage near 0 and 1 as well, where good classifiers are.

    Raises:
        ValueError: ``right`` is not between 0 and ``samples``, or there are no samples.

    Example:
        >>> [round(end, 3) for end in wilson_interval(97, 100)]
        [0.915, 0.99]
    """
    if not 0 <= right <= samples or samples == 0:
        raise ValueError(f"{right} of {samples} is not a proportion")
    share, z2 = right / samples, Z_95**2
    centre = (share + z2 / (2 * samples)) / (1 + z2 / samples)
    half = Z_95 / (1 + z2 / samples) * math.sqrt(share * (1 - share) / samples + z2 / (4 * samples**2))
    low = 0.0 if right == 0 else max(0.0, centre - half)
    high = 1.0 if right == samples else min(1.0, centre + half)
    return low, high


def share_interval(shares: np.ndarray) -> Interval:
    """Return the 95 % interval of the mean of independent shares, for example of right labels per sample.

    It is Wilson's interval with the effective number of binary samples that has the observed variance (Korn & Graubard
    1998), and at least the number of samples. If all shares are 1, the interval still has a width; a bootstrap's
    wouldn't.
    """
    samples, mean = len(shares), float(np.mean(shares))
    variance = float(np.var(shares, ddof=1)) if samples > 1 else 0.0
    binary = mean * (1 - mean)
    effective = samples * max(1.0, binary / variance) if variance > 0 else samples
    return wilson_interval(min(mean * effective, effective), effective)


def mean_interval(scores: np.ndarray) -> Interval:
    """Return the 95 % bootstrap interval of the mean of independent numbers, for example of errors."""
    scores = np.asarray(scores, np.float64)
    ((low, high),) = bootstrap_intervals(np.stack([scores, np.ones_like(scores)], 1), _mean)
    return float(low), float(high)


def _mean(sums: np.ndarray) -> np.ndarray:
    return sums[..., :1] / sums[..., 1:]


def bootstrap_intervals(
    features: np.ndarray | csr_array, statistic: Statistic, counts: np.ndarray | None = None
) -> np.ndarray:
    """Return 95 % intervals by the bias-corrected and accelerated bootstrap (BCa; Efron 1987), with a fixed seed.

    Plain percentiles are too narrow if a statistic is skewed or biased. Macro F1 is: its mean over resamples is below
    its value. Above ``MANY`` samples, the interval is the normal one with the jackknife's variance.

    Args:
        features: (n, k), dense or sparse; the statistic depends on their sums over samples alone.
        statistic: function from sums (…, k) to m statistics (…, m).
        counts: number of samples that each row of features stands for; 1 by default.

    Returns:
        Low and high ends, (m, 2).
    """
    features = features.astype(np.float64)
    weights = np.ones(features.shape[0]) if counts is None else np.asarray(counts, np.float64)
    samples, total = float(weights.sum()), weights @ features
    value = statistic(total)
    if samples < 2:
        return np.stack([value, value], 1)
    left_out = np.concatenate([statistic(total - part) for part in _blocks(features)])
    influence = (samples - 1) * (weights @ left_out / samples - left_out)
    squares, cubes = weights @ influence**2, weights @ influence**3
    if samples > MANY:
        half = Z_95 * np.sqrt(squares) / samples
        return np.stack([value - half, value + half], 1)
    resampled = np.sort(statistic(_resampled_sums(features, counts)), axis=0)
    below = ((resampled < value).mean(0) + (resampled <= value).mean(0)) / 2
    bias = ndtri(np.clip(below, 1 / RESAMPLES, 1 - 1 / RESAMPLES))
    skew = np.divide(cubes, 6 * squares**1.5, out=np.zeros_like(squares), where=squares > 0)
    ends = []
    for z in (-Z_95, Z_95):
        level = ndtr(bias + (bias + z) / np.maximum(1 - skew * (bias + z), 1e-3))
        place = np.clip(np.round(level * (RESAMPLES + 1)).astype(int) - 1, 0, RESAMPLES - 1)
        ends.append(resampled[place, np.arange(resampled.shape[1])])
    return np.stack(ends, 1)


def _resampled_sums(features: np.ndarray | csr_array, counts: np.ndarray | None) -> np.ndarray:
    """Return sums of features (n, k) over n samples drawn with replacement, (RESAMPLES, k); seeded."""
    if counts is not None:
        samples = int(counts.sum())
        return np.random.default_rng(0).multinomial(samples, np.asarray(counts) / samples, RESAMPLES) @ features
    return np.concatenate([times @ features for times in _resamples(features.shape[0])])


def _resamples(samples: int) -> Iterable[np.ndarray]:
    """Return how often each resample holds each sample, (RESAMPLES, samples) in blocks of rows."""
    return _few_resamples(samples) if samples <= FEW else _draw_resamples(samples)


@functools.lru_cache(maxsize=2)  # an evaluation asks for many intervals of the same samples
def _few_resamples(samples: int) -> list[np.ndarray]:
    return list(_draw_resamples(samples))


def _draw_resamples(samples: int) -> Iterator[np.ndarray]:
    rng = np.random.default_rng(0)
    rows = max(1, min(RESAMPLES, 2_000_000 // samples))  # a few MB of draws at a time
    for start in range(0, RESAMPLES, rows):
        part = min(rows, RESAMPLES - start)
        drawn = rng.integers(0, samples, (part, samples)) + samples * np.arange(part)[:, None]
        times = np.bincount(drawn.ravel(), minlength=part * samples).reshape(part, samples)
        yield times.astype(np.float64)


def _blocks(features: np.ndarray | csr_array) -> Iterator[np.ndarray]:
    rows = max(1, 4_000_000 // max(1, features.shape[1]))
    for start in range(0, features.shape[0], rows):
        block = features[start : start + rows]
        yield block if isinstance(block, np.ndarray) else block.toarray()
