"""Measures of what a network answers, with how sure they are."""

import math
from dataclasses import dataclass

import numpy as np

Z_95 = 1.959963984540054  # standard normal quantile of 97.5 %


def wilson_interval(right: int, samples: int) -> tuple[float, float]:
    """Give the 95 % score interval of a proportion (Wilson 1927).

    Unlike the textbook's ±1.96 standard errors it keeps its promise near 0 and 1, where good classifiers live.
    """
    if not 0 <= right <= samples or samples == 0:
        raise ValueError(f"{right} of {samples} is no proportion")
    share, z2 = right / samples, Z_95**2
    centre = (share + z2 / (2 * samples)) / (1 + z2 / samples)
    half = Z_95 / (1 + z2 / samples) * math.sqrt(share * (1 - share) / samples + z2 / (4 * samples**2))
    low = 0.0 if right == 0 else max(0.0, centre - half)
    high = 1.0 if right == samples else min(1.0, centre + half)
    return low, high


def paired_difference(first: np.ndarray, second: np.ndarray) -> tuple[float, float, float]:
    """Give the difference of two accuracies on the same samples, first less second, with its 95 % interval.

    Only samples that one has right and the other wrong count; half a sample is added to each kind (Agresti & Min 2005),
    without which two that never differ would have an interval of no width.

    Args:
        first: which samples are right, bool, (samples,).
        second: likewise.
    """
    gained, lost, samples = int((first & ~second).sum()), int((second & ~first).sum()), len(first)
    middle = (gained - lost) / (samples + 2)
    spread = gained + lost + 1 - (gained - lost) ** 2 / (samples + 2)
    half = Z_95 * math.sqrt(spread) / (samples + 2)
    return (gained - lost) / samples, max(-1.0, middle - half), min(1.0, middle + half)


RESAMPLES = 1000


def bootstrap_interval(scores: np.ndarray) -> tuple[float, float]:
    """Give the 95 % percentile interval of the mean of independent scores (Efron 1979); always the same numbers."""
    rng = np.random.default_rng(0)
    means = [scores[rng.integers(0, len(scores), len(scores))].mean() for _ in range(RESAMPLES)]
    low, high = np.quantile(means, [0.025, 0.975])
    return float(low), float(high)


@dataclass(frozen=True)
class ClassScore:
    """One class or label against the rest. A ratio without cases is 0, as scikit-learn's zero_division=0 has it."""

    precision: float
    """Share of the answers with this class that are right."""
    recall: float
    """Share of this class's samples that are found."""
    f1: float
    """Harmonic mean of both."""
    support: int
    """Samples of this class."""


def confusion_matrix(truth: np.ndarray, answers: np.ndarray, classes: int) -> np.ndarray:
    """Count samples by true class (rows) and answer (columns): int64, (classes, classes)."""
    return np.bincount(truth * classes + answers, minlength=classes * classes).reshape(classes, classes)


def class_scores(confusion: np.ndarray) -> list[ClassScore]:
    """Give precision, recall and F1 of each class."""
    found = np.diag(confusion).astype(float)
    return _scores(found, confusion.sum(0), confusion.sum(1))


def label_scores(truth: np.ndarray, answers: np.ndarray) -> list[ClassScore]:
    """Give precision, recall and F1 of each label from yes and no, bool, (N, K)."""
    return _scores((truth & answers).sum(0).astype(float), answers.sum(0), truth.sum(0))


def _scores(found: np.ndarray, answered: np.ndarray, support: np.ndarray) -> list[ClassScore]:
    precision = np.divide(found, answered, out=np.zeros_like(found), where=answered > 0)
    recall = np.divide(found, support, out=np.zeros_like(found), where=support > 0)
    both = precision + recall
    f1 = np.divide(2 * precision * recall, both, out=np.zeros_like(found), where=both > 0)
    return [ClassScore(*map(float, row), int(n)) for *row, n in zip(precision, recall, f1, support, strict=True)]


@dataclass(frozen=True)
class TargetScore:
    """One target of a regression, in its own unit."""

    mae: float
    """Mean absolute error."""
    rmse: float
    """Root of the mean squared error."""
    r2: float
    """Share of the test split's variance that is explained; 0 where there is none to explain."""


def target_scores(truth: np.ndarray, answers: np.ndarray) -> list[TargetScore]:
    """Give the errors of each target; both (N, K)."""
    errors = answers.astype(np.float64) - truth
    variance = truth.astype(np.float64).var(0)
    squares = (errors**2).mean(0)
    r2 = np.where(variance > 0, 1 - squares / np.where(variance > 0, variance, 1), 0.0)
    return [TargetScore(*map(float, row)) for row in zip(np.abs(errors).mean(0), np.sqrt(squares), r2, strict=True)]
