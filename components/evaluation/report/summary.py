"""The first things to know of an evaluation, each with its 95 % interval, in words."""

from typing import NamedTuple

from torchmill.components import tasks
from torchmill.components.evaluation.evaluation import Evaluation
from torchmill.components.tasks import shown, title

NAMES = {
    "accuracy": "accuracy",
    "label_accuracy": "label accuracy",
    "r2": "R²",
    "top_2_accuracy": "top-2 accuracy",
    "top_3_accuracy": "top-3 accuracy",
    "top_5_accuracy": "top-5 accuracy",
    "balanced_accuracy": "balanced accuracy",
    "exact_match": "all labels right",
    "macro_f1": "macro F1",
    "micro_f1": "micro F1",
    "roc_auc": "area under ROC",
    "average_precision": "average precision",
    "ece": "calibration error (ECE)",
    "ece_calibrated": "… after temperature",
}
NUMBERS = {"mae": "mean absolute error", "rmse": "root mean squared error"}


class Row(NamedTuple):
    name: str
    value: str
    interval: str
    """Empty where there is none."""


def summary(evaluation: Evaluation, task: str) -> list[Row]:
    """Return what people read of an evaluation first.

    Args:
        task: name of the task; empty of a task over named fields.
    """
    rows = []
    if not task:
        for key, ends in evaluation.intervals.items():
            if key != "loss":
                interval = between(*(shown(key, end) for end in ends))
                rows.append(Row(title(key), shown(key, evaluation.measures[key]), interval))
        return [*rows, Row("loss", f"{evaluation.loss:.4f}", "")]
    for key, name in NAMES.items():
        if ends := evaluation.intervals.get(key):
            rows.append(Row(name, shown(key, evaluation.measures[key]), between(*(shown(key, end) for end in ends))))
    for target, scores in evaluation.targets.items():
        of = f" of {target}" * (len(evaluation.targets) > 1)
        for key, name in NUMBERS.items():
            ends = getattr(scores, f"{key}_95") or ()
            interval = between(*(f"{end:.4g}" for end in ends)) if ends else ""
            rows.append(Row(name + of, f"{getattr(scores, key):.4g}", interval))
    ends = evaluation.intervals.get("loss", ())
    interval = between(*(f"{end:.4f}" for end in ends)) if ends else ""
    rows.append(Row(tasks.task(task).loss_words, f"{evaluation.loss:.4f}", interval))
    if calibration := evaluation.calibration:
        temperature = f"temperature {calibration.temperature:.3g}"
        rows.append(Row("… after temperature", f"{calibration.after.loss:.4f}", temperature))
    return rows


def between(low: str, high: str) -> str:
    """An interval in words."""
    return f"{low} to {high}"
