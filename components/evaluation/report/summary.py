"""The first things to know of an evaluation, each with its 95 % interval, in words."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from torchmill.components import tasks
from torchmill.components.tasks import shown

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


def summary(report: Mapping[str, Any], task: str) -> list[Row]:
    """Give what an ``evaluation.json`` says first."""
    rows = []
    for key, name in NAMES.items():
        if ends := report.get(f"{key}_95"):
            rows.append(Row(name, shown(key, report[key]), between(*(shown(key, end) for end in ends))))
    targets = report.get("targets", {})
    for target, scores in targets.items():
        of = f" of {target}" * (len(targets) > 1)
        rows += [
            Row(name + of, f"{scores[key]:.4g}", between(*(f"{end:.4g}" for end in scores[f"{key}_95"])))
            for key, name in NUMBERS.items()
        ]
    ends = report.get("loss_95")
    rows.append(
        Row(
            tasks.task(task).loss_words,
            f"{report['loss']:.4f}",
            between(*(f"{end:.4f}" for end in ends)) if ends else "",
        )
    )
    if "calibration" in report:
        after = report["calibration"]["after"]["loss"]
        rows.append(
            Row("… after temperature", f"{after:.4f}", f"temperature {report['calibration']['temperature']:.3g}")
        )
    return rows


def between(low: str, high: str) -> str:
    """An interval in words."""
    return f"{low} to {high}"
