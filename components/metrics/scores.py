"""Scores of answers: precision, recall and F1 of classes and labels, errors of regression targets."""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from scipy.sparse import csr_array

from torchmill.components.metrics.intervals import Interval, bootstrap_intervals, wilson_interval


@dataclass(frozen=True)
class ClassScore:
    """Scores of one class or label against the rest. Undefined ratios are 0, as scikit-learn's zero_division=0."""

    precision: float
    """Share of the answers with this class that are right."""
    recall: float
    """Share of this class's samples that get this answer."""
    f1: float
    """Harmonic mean of precision and recall."""
    support: int
    """Number of samples of this class."""
    answered: int
    """Number of answers with this class."""


def with_intervals(score: ClassScore) -> dict[str, Any]:
    """Return a class's scores and the 95 % intervals of precision and recall, which are None without cases."""
    ends = {}
    for name, share, cases in (("precision", score.precision, score.answered), ("recall", score.recall, score.support)):
        ends[f"{name}_95"] = list(wilson_interval(round(share * cases), cases)) if cases else None
    return {**asdict(score), **ends}


def highest(rows: np.ndarray, values: np.ndarray, most: int) -> list[int]:
    """Return the rows of the highest values; of equal ones the first."""
    return rows[np.argsort(-values, kind="stable")[:most]].tolist()


def confusion_matrix(truth: np.ndarray, answers: np.ndarray, classes: int) -> np.ndarray:
    """Count samples by true class (rows) and answer (columns): int64, (classes, classes)."""
    return np.bincount(truth * classes + answers, minlength=classes * classes).reshape(classes, classes)


def class_scores(confusion: np.ndarray) -> list[ClassScore]:
    """Return precision, recall and F1 of each class."""
    right = np.diag(confusion).astype(float)
    return _scores(right, confusion.sum(0), confusion.sum(1))


def macro_intervals(confusion: np.ndarray) -> dict[str, tuple[float, Interval]]:
    """Return macro F1 and balanced accuracy, each with its 95 % bootstrap interval.

    Balanced accuracy is the mean recall of the classes that have samples. If no answer is wrong, all resamples are
    equal. Then the interval is Wilson's, with the number of samples at which an accuracy has the mean's variance.
    """
    classes, cells = len(confusion), np.argwhere(confusion > 0)
    rows, columns = cells.T
    at, right = np.arange(len(cells)), np.flatnonzero(rows == columns)
    # Per class: right answers, samples, answers. Each cell counts in three columns at most.
    places = np.r_[right, at, at], np.r_[rows[right], classes + rows, 2 * classes + columns]
    features = csr_array((np.ones(len(places[0])), places), (len(cells), 3 * classes))

    def macro(sums: np.ndarray) -> np.ndarray:
        right, support, answered = (sums[..., start : start + classes] for start in (0, classes, 2 * classes))
        f1 = 2 * right / np.maximum(support + answered, 1)
        recall = right / np.maximum(support, 1)
        return np.stack([f1.mean(-1), recall.sum(-1) / np.maximum((support > 0).sum(-1), 1)], -1)

    counts = confusion[rows, columns]
    values = macro(counts @ features)
    if (rows == columns).all():
        support = counts[counts > 0]
        effective = len(support) ** 2 / float((1 / support).sum())
        ends = [wilson_interval(effective, effective)] * 2
    else:
        ends = [(float(low), float(high)) for low, high in bootstrap_intervals(features, macro, counts)]
    return dict(zip(("macro_f1", "balanced_accuracy"), zip(map(float, values), ends, strict=True), strict=True))


def top_accuracies(outputs: np.ndarray, truth: np.ndarray) -> dict[int, int]:
    """Count the samples whose class is among the 2, 3 and 5 highest outputs, for each k below the number of classes.

    Args:
        outputs: (N, K). Among equal outputs the first class ranks higher.
    """
    own = outputs[np.arange(len(truth)), truth][:, None]
    earlier = np.arange(outputs.shape[1]) < truth[:, None]
    rank = ((outputs > own) | ((outputs == own) & earlier)).sum(1)
    return {k: int((rank < k).sum()) for k in (2, 3, 5) if k < outputs.shape[1]}


def label_scores(truth: np.ndarray, answers: np.ndarray) -> list[ClassScore]:
    """Return precision, recall and F1 of each label; both arguments are bool (N, K)."""
    return _scores((truth & answers).sum(0).astype(float), answers.sum(0), truth.sum(0))


def label_intervals(truth: np.ndarray, answers: np.ndarray) -> dict[str, tuple[float, Interval]]:
    """Return micro and macro F1 of all labels, each with its 95 % bootstrap interval.

    Args:
        truth, answers: bool, (N, K).
    """
    labels = truth.shape[1]
    features = np.concatenate([truth & answers, truth, answers], 1).astype(np.float64)

    def f1(sums: np.ndarray) -> np.ndarray:
        both, support, answered = (sums[..., start : start + labels] for start in (0, labels, 2 * labels))
        micro = 2 * both.sum(-1) / np.maximum(support.sum(-1) + answered.sum(-1), 1)
        return np.stack([micro, (2 * both / np.maximum(support + answered, 1)).mean(-1)], -1)

    ends = [(float(low), float(high)) for low, high in bootstrap_intervals(features, f1)]
    return dict(zip(("micro_f1", "macro_f1"), zip(map(float, f1(features.sum(0))), ends, strict=True), strict=True))


def _scores(right: np.ndarray, answered: np.ndarray, support: np.ndarray) -> list[ClassScore]:
    precision = np.divide(right, answered, out=np.zeros_like(right), where=answered > 0)
    recall = np.divide(right, support, out=np.zeros_like(right), where=support > 0)
    both = precision + recall
    f1 = np.divide(2 * precision * recall, both, out=np.zeros_like(right), where=both > 0)
    rows = zip(precision, recall, f1, support, answered, strict=True)
    return [ClassScore(float(p), float(r), float(f), int(n), int(a)) for p, r, f, n, a in rows]


@dataclass(frozen=True)
class TargetScore:
    """Errors of one regression target, in its own unit."""

    mae: float
    """Mean absolute error."""
    rmse: float
    """Root of the mean squared error."""
    r2: float
    """Share of the variance that is explained; 0 if the target is constant."""


def target_intervals(truth: np.ndarray, answers: np.ndarray) -> list[dict[str, Interval]]:
    """Return 95 % bootstrap intervals of each target's errors; both arguments are (N, K)."""
    rows = []
    for start in range(0, truth.shape[1], TARGETS):
        true = truth[:, start : start + TARGETS].astype(np.float64)
        error = answers[:, start : start + TARGETS] - true
        true_centred = true - true.mean(0)  # so that the variance keeps its precision
        features = [np.abs(error), error**2, true_centred, true_centred**2, np.ones_like(true)]
        ends = bootstrap_intervals(np.concatenate(features, 1), _errors).reshape(len(ERRORS), -1, 2)
        for number in range(true.shape[1]):
            pairs = zip(ERRORS, ends[:, number].tolist(), strict=True)
            rows.append({name: (low, high) for name, (low, high) in pairs})
    return rows


ERRORS = ("mae", "rmse", "r2")

TARGETS = 200
"""Number of targets that share resamples: drawing them takes longer than their sums."""


def _errors(sums: np.ndarray) -> np.ndarray:
    """Return the mean absolute errors, the roots of the mean squared errors and R² of some targets, (…, 3 targets)."""
    absolute, square, true, true_square, samples = np.split(sums, 5, axis=-1)
    variance = true_square - true**2 / samples
    some = variance > 1e-12 * np.maximum(true_square, 1e-300)
    r2 = np.where(some, 1 - square / np.where(some, variance, 1), 0.0)
    return np.concatenate([absolute / samples, np.sqrt(square / samples), r2], -1)


def mean_r2_interval(truth: np.ndarray, answers: np.ndarray) -> Interval:
    """Return the 95 % bootstrap interval of the mean R² over targets; both arguments are (N, K)."""
    true = truth.astype(np.float64) - truth.mean(0)
    squares, targets = (answers.astype(np.float64) - truth) ** 2, truth.shape[1]
    scale = np.where(true.std(0) > 0, true.std(0), 1.0)
    features = np.concatenate([squares / scale**2, true / scale, (true / scale) ** 2, np.ones((len(true), 1))], 1)

    def mean(sums: np.ndarray) -> np.ndarray:
        square, first, second = (sums[..., start : start + targets] for start in (0, targets, 2 * targets))
        variance = second - first**2 / sums[..., -1:]
        some = variance > 1e-12
        return np.where(some, 1 - square / np.where(some, variance, 1), 0.0).mean(-1, keepdims=True)

    ((low, high),) = bootstrap_intervals(features, mean)
    return float(low), float(high)


def target_scores(truth: np.ndarray, answers: np.ndarray) -> list[TargetScore]:
    """Return the errors of each target; both arguments are (N, K)."""
    errors = answers.astype(np.float64) - truth
    variance = truth.astype(np.float64).var(0)
    squares = (errors**2).mean(0)
    r2 = np.where(variance > 0, 1 - squares / np.where(variance > 0, variance, 1), 0.0)
    return [TargetScore(*map(float, row)) for row in zip(np.abs(errors).mean(0), np.sqrt(squares), r2, strict=True)]
