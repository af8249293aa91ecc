"""How good is a trained network on the test split."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from components.data.batches import Samples
from components.evaluation.metrics import (
    bootstrap_interval,
    class_scores,
    confusion_matrix,
    label_scores,
    target_scores,
    wilson_interval,
)
from components.evaluation.pictures import draw_confusion, draw_labels, draw_targets
from components.files import write_text
from components.raw_model import RawModel
from components.refs import DataRef, EvaluationRef, FileRef, Task
from components.training.losses import plain_loss


@dataclasses.dataclass(frozen=True)
class Scores:
    """What the answers to a test split are worth."""

    score: float
    low: float
    high: float
    """95 % interval."""
    others: dict[str, float]
    loss: float
    parts: dict[str, Any]
    """For each class, label or target; and more that only the report holds."""
    picture: str
    draw: Callable[[Path], None]


def evaluate(
    network: nn.Module, test: Samples, data: DataRef, device: torch.device, batch_size: int, folder: Path
) -> EvaluationRef:
    """Score a network on the test split; writes ``evaluation.json`` and a picture into ``folder``."""
    model = RawModel.of(network, data).to(device).eval()
    outputs = predict(model, test.to(device), batch_size)
    found = SCORED[data.task](outputs, test.labels, data)
    report = {
        "samples": len(test),
        "measure": data.measure,
        data.measure: found.score,
        f"{data.measure}_95": [found.low, found.high],
        **found.others,
        "loss": found.loss,
        **found.parts,
    }
    write_text(folder / "evaluation.json", json.dumps(report, indent=1))
    picture = folder / found.picture
    found.draw(picture)
    return EvaluationRef(
        measure=data.measure,
        score=found.score,
        score_low=found.low,
        score_high=found.high,
        others=found.others,
        loss=found.loss,
        samples=len(test),
        report=FileRef.of(folder / "evaluation.json"),
        picture=FileRef.of(picture),
    )


def of_classes(logits: Tensor, labels: Tensor, data: DataRef) -> Scores:
    """Score one class per sample: accuracy with its Wilson interval, macro F1."""
    truth, answers = labels.numpy(), logits.argmax(1).numpy()
    right = int((answers == truth).sum())
    low, high = wilson_interval(right, len(truth))
    confusion = confusion_matrix(truth, answers, len(data.classes))
    by_class = class_scores(confusion)
    return Scores(
        score=right / len(truth),
        low=low,
        high=high,
        others={"macro_f1": sum(score.f1 for score in by_class) / len(by_class)},
        loss=plain_loss(data.task)(logits, labels).item(),
        parts={
            "classes": _by_name(data, by_class),
            "confusion": {"rows": "truth", "columns": "answer", "counts": confusion.tolist()},
        },
        picture="confusion.png",
        draw=lambda path: draw_confusion(confusion, data.classes, path),
    )


def of_labels(logits: Tensor, labels: Tensor, data: DataRef) -> Scores:
    """Score yes and no for each label: share of right ones, of samples with all right, F1 over all and per label."""
    truth, answers = labels.numpy() > 0.5, logits.numpy() > 0
    right = truth == answers
    by_label = label_scores(truth, answers)
    both = 2 * float((truth & answers).sum())
    low, high = bootstrap_interval(right.mean(1))
    return Scores(
        score=float(right.mean()),
        low=low,
        high=high,
        others={
            "exact_match": float(right.all(1).mean()),
            "micro_f1": both / max(1.0, float(truth.sum() + answers.sum())),
            "macro_f1": sum(score.f1 for score in by_label) / len(by_label),
        },
        loss=plain_loss(data.task)(logits, labels).item(),
        parts={"classes": _by_name(data, by_label)},
        picture="labels.png",
        draw=lambda path: draw_labels(by_label, data.classes, path),
    )


def of_targets(values: Tensor, labels: Tensor, data: DataRef) -> Scores:
    """Score numbers: explained variance (mean over targets), errors per target in its own unit."""
    truth, answers = labels.numpy(), values.numpy()
    by_target = target_scores(truth, answers)
    variance = truth.astype(np.float64).var(0)
    squares = (answers.astype(np.float64) - truth) ** 2
    each = np.where(variance > 0, 1 - squares / np.where(variance > 0, variance, 1), 0.0)
    low, high = bootstrap_interval(each.mean(1))
    spread = torch.tensor([value or 1.0 for value in data.target_std])
    others = {"mae": by_target[0].mae, "rmse": by_target[0].rmse} if len(by_target) == 1 else {}
    return Scores(
        score=sum(score.r2 for score in by_target) / len(by_target),
        low=low,
        high=high,
        others=others,
        loss=plain_loss(data.task)(values / spread, labels / spread).item(),
        parts={"targets": _by_name(data, by_target)},
        picture="targets.png",
        draw=lambda path: draw_targets(truth, answers, data.classes, path),
    )


SCORED: dict[Task, Callable[[Tensor, Tensor, DataRef], Scores]] = {
    "classification": of_classes,
    "multilabel": of_labels,
    "regression": of_targets,
}


def _by_name(data: DataRef, scores: list[Any]) -> dict[str, Any]:
    return {name: dataclasses.asdict(score) for name, score in zip(data.classes, scores, strict=True)}


@torch.no_grad()
def predict(model: nn.Module, split: Samples, batch_size: int) -> Tensor:
    """Give what the model gives for all samples, (N, K), on the CPU."""
    return torch.cat([model(inputs).float().cpu() for inputs, _ in split.batches(batch_size)])
