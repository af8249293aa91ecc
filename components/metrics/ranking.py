"""ROC and precision-recall curves: how well outputs separate each class from the rest, at any threshold."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from torchmill.components.metrics.intervals import Interval, wilson_interval

MOST_CLASSES = 100
"""Largest number of classes: with more, the curves take longer than the network itself."""
GRID = np.linspace(0, 1, 101)


@dataclass(frozen=True)
class Ranking:
    """Curves and areas of each class or label against the rest, and their means."""

    roc_auc: dict[int, float]
    """Area under the ROC curve by class."""
    average_precision: dict[int, float]
    """Mean precision over the steps of recall, by class (scikit-learn's ``average_precision_score``)."""
    true_positive_rate: list[float]
    """True positive rate at false positive rates 0, 0.01, …, 1, mean over classes."""
    precision: list[float]
    """Best precision at recalls of at least 0, 0.01, …, 1, mean over classes."""
    auc_95: Interval
    """95 % interval of ``macro_auc``."""
    precision_95: Interval
    """95 % interval of ``macro_precision``."""

    @property
    def macro_auc(self) -> float:
        return sum(self.roc_auc.values()) / len(self.roc_auc)

    @property
    def macro_precision(self) -> float:
        return sum(self.average_precision.values()) / len(self.average_precision)

    def areas(self) -> dict[str, float]:
        """Return both means by their name in a report."""
        return {"roc_auc": self.macro_auc, "average_precision": self.macro_precision}

    def intervals(self) -> dict[str, list[float]]:
        """Return the 95 % intervals of both means by their name in a report."""
        return {"roc_auc_95": list(self.auc_95), "average_precision_95": list(self.precision_95)}

    def as_plain(self, names: Sequence[str]) -> dict[str, Any]:
        """Return curves and areas for a report, by the names of the classes."""
        return {
            "classes": {
                names[number]: {"roc_auc": area, "average_precision": self.average_precision[number]}
                for number, area in self.roc_auc.items()
            },
            "true_positive_rate": self.true_positive_rate,
            "precision": self.precision,
        }


def rank(scores: np.ndarray, truth: np.ndarray) -> Ranking | None:
    """Compute the curves of each class or label; None if no class has samples of both kinds, or there are too many.

    Args:
        scores: higher for surer, (N, K).
        truth: bool, (N, K).
    """
    from sklearn.metrics import precision_recall_curve, roc_curve

    usable = [number for number in range(scores.shape[1]) if 0 < truth[:, number].sum() < len(truth)]
    if not usable or scores.shape[1] > MOST_CLASSES or not np.isfinite(scores).all():
        return None
    areas, averages, rates, precisions = {}, {}, [], []
    pulls = np.zeros((2, len(truth)))
    for number in usable:
        true, score = truth[:, number], scores[:, number]
        areas[number], area_pull = _area(true, score)
        averages[number], average_pull = _average_precision(true, score)
        pulls += area_pull / len(usable), average_pull / len(usable)
        false_rate, true_rate, _ = roc_curve(true, score)
        # At equal false rates the curve rises vertically: its upper end counts.
        rates.append(true_rate[np.searchsorted(false_rate, GRID, side="right") - 1])
        precision, recall, _ = precision_recall_curve(true, score)
        best = np.maximum.accumulate(precision)  # at this recall or more, since recall falls
        precisions.append(best[::-1][np.searchsorted(recall[::-1], GRID - 1e-12)])
    curves = (np.mean(curves, 0).round(6).tolist() for curves in (rates, precisions))
    rarer = np.minimum(truth.sum(0), (~truth).sum(0))[usable]
    effective = len(usable) ** 2 / float((1 / rarer).sum())
    means = (sum(values.values()) / len(values) for values in (areas, averages))
    ends = (_interval(mean, pull, effective) for mean, pull in zip(means, pulls, strict=True))
    return Ranking(areas, averages, *curves, *ends)


def _interval(mean: float, pull: np.ndarray, effective: float) -> Interval:
    """Return the 95 % interval of a mean area: Wilson's, with the effective number of binary samples.

    Args:
        pull: derivative of the area by each sample's weight, (N,). Its squares sum to the variance (infinitesimal
            jackknife, Jaeckel 1972); for an area under the ROC curve that is DeLong et al. 1988.
        effective: number of samples to take if the order is perfect, so that no variance is observed.
    """
    variance = float((pull**2).sum()) * len(pull) / (len(pull) - 1)
    binary = mean * (1 - mean)
    samples = binary / variance if variance > 0 and binary > 0 else effective
    return wilson_interval(min(mean, 1.0) * samples, samples)


def _area(true: np.ndarray, score: np.ndarray) -> tuple[float, np.ndarray]:
    """Return the area under the ROC curve (the share of pairs in order, ties count half) and each sample's pull."""
    yes, no = np.sort(score[true]), np.sort(score[~true])
    above = (np.searchsorted(no, score, "left") + np.searchsorted(no, score, "right")) / (2 * len(no))
    below = 1 - (np.searchsorted(yes, score, "left") + np.searchsorted(yes, score, "right")) / (2 * len(yes))
    area = math.fsum(above[true]) / len(yes)
    return area, np.where(true, (above - area) / len(yes), (below - area) / len(no))


def _average_precision(true: np.ndarray, score: np.ndarray) -> tuple[float, np.ndarray]:
    """Return the mean precision at the scores of the positive samples, and each sample's pull."""
    order = np.argsort(-score, kind="stable")
    yes = true[order].astype(np.float64)
    # Equal scores are one threshold: the last of them counts.
    last = np.searchsorted(-score[order], -score[order], "right") - 1
    hits, answered, total = np.cumsum(yes)[last], last + 1.0, yes.sum()
    precision = hits / answered
    average = float((yes * precision).sum() / total)
    # A sample counts in the precision at its own score and at every lower one.
    first = np.searchsorted(-score[order], -score[order], "left")
    lower = [np.append(np.cumsum((yes * part)[::-1])[::-1], 0.0)[first] for part in (1 / answered, hits / answered**2)]
    pull = np.empty(len(score))
    pull[order] = (yes * (precision - average) + yes * lower[0] - lower[1]) / total
    return average, pull
