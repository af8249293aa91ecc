"""How well outputs tell one class from the rest, whatever the threshold: ROC and precision-recall curves."""

from dataclasses import dataclass

import numpy as np

MOST_CLASSES = 100
"""Beyond that curves of each class against the rest would take longer than the network itself."""
GRID = np.linspace(0, 1, 101)


@dataclass(frozen=True)
class Ranking:
    """One class or label against the rest, for each that has both; and the mean over them."""

    roc_auc: dict[int, float]
    """Area under the ROC curve by class."""
    average_precision: dict[int, float]
    """Mean precision over the steps of recall, by class (scikit-learn's ``average_precision_score``)."""
    true_positive_rate: list[float]
    """Mean over classes, at false positive rates 0, 0.01, …, 1."""
    precision: list[float]
    """Mean over classes, at recalls 0, 0.01, …, 1; the best that is reached with at least this recall."""

    @property
    def macro_auc(self) -> float:
        return sum(self.roc_auc.values()) / len(self.roc_auc)

    @property
    def macro_precision(self) -> float:
        return sum(self.average_precision.values()) / len(self.average_precision)


def rank(scores: np.ndarray, truth: np.ndarray) -> Ranking | None:
    """Compute the curves of each class or label; None where none can be told from the rest, or there are too many.

    Args:
        scores: the higher the surer, (N, K).
        truth: bool, (N, K).
    """
    from sklearn.metrics import average_precision_score, precision_recall_curve, roc_auc_score, roc_curve

    told = [number for number in range(scores.shape[1]) if 0 < truth[:, number].sum() < len(truth)]
    if not told or scores.shape[1] > MOST_CLASSES or not np.isfinite(scores).all():
        return None
    areas, averages, rates, precisions = {}, {}, [], []
    for number in told:
        true, score = truth[:, number], scores[:, number]
        areas[number] = float(roc_auc_score(true, score))
        averages[number] = float(average_precision_score(true, score))
        false_rate, true_rate, _ = roc_curve(true, score)
        # At equal false rates the curve goes straight up: what is reached there counts.
        rates.append(true_rate[np.searchsorted(false_rate, GRID, side="right") - 1])
        precision, recall, _ = precision_recall_curve(true, score)
        best = np.maximum.accumulate(precision)  # of this recall or more, since recall falls
        precisions.append(best[::-1][np.searchsorted(recall[::-1], GRID - 1e-12)])
    curves = (np.mean(curves, 0).round(6).tolist() for curves in (rates, precisions))
    return Ranking(areas, averages, *curves)
