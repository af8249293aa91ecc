"""How good is a trained network on the test split."""

import dataclasses
import json
from pathlib import Path

import torch
from torch import nn
from torch.nn.functional import cross_entropy

from components.data.batches import LabelledImages
from components.evaluation.metrics import class_scores, confusion_matrix, wilson_interval
from components.evaluation.pictures import draw_confusion
from components.files import write_text
from components.pixels import PixelClassifier
from components.refs import DataRef, EvaluationRef, FileRef


def evaluate(
    network: nn.Module, test: LabelledImages, data: DataRef, device: torch.device, batch_size: int, folder: Path
) -> EvaluationRef:
    """Score a network on the test split; writes ``evaluation.json`` and ``confusion.png`` into ``folder``."""
    model = PixelClassifier(network, data.mean, data.std).to(device).eval()
    logits = predict(model, test.to(device), batch_size)
    truth = test.labels.numpy()
    answers = logits.argmax(1).numpy()
    loss = cross_entropy(logits, test.labels).item()
    right = int((answers == truth).sum())
    low, high = wilson_interval(right, len(truth))
    confusion = confusion_matrix(truth, answers, len(data.classes))
    by_class = class_scores(confusion)
    macro_f1 = sum(score.f1 for score in by_class) / len(by_class)
    report = {
        "samples": len(truth),
        "accuracy": right / len(truth),
        "accuracy_95": [low, high],
        "macro_f1": macro_f1,
        "loss": loss,
        "classes": {name: dataclasses.asdict(score) for name, score in zip(data.classes, by_class, strict=True)},
        "confusion": {"rows": "truth", "columns": "answer", "counts": confusion.tolist()},
    }
    write_text(folder / "evaluation.json", json.dumps(report, indent=1))
    draw_confusion(confusion, data.classes, folder / "confusion.png")
    return EvaluationRef(
        accuracy=right / len(truth),
        accuracy_low=low,
        accuracy_high=high,
        macro_f1=macro_f1,
        loss=loss,
        samples=len(truth),
        report=FileRef.of(folder / "evaluation.json"),
        picture=FileRef.of(folder / "confusion.png"),
    )


@torch.no_grad()
def predict(model: nn.Module, split: LabelledImages, batch_size: int) -> torch.Tensor:
    """Give the logits (N, classes) of all samples, on the CPU."""
    return torch.cat([model(pixels).float().cpu() for pixels, _ in split.batches(batch_size)])
