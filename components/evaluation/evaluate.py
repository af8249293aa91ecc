"""How good is a trained network on the test split, how sure is that, and what is it wrong about."""

import dataclasses
import importlib
import json
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from torchmill.components.data.encoding.encoding import Encoding, read_encoding
from torchmill.components.data.samples import Samples
from torchmill.components.evaluation.analysis import robustness, saliency
from torchmill.components.evaluation.analysis.error_slices import error_slices
from torchmill.components.evaluation.analysis.mistakes import Mistake, draw_mistakes, tell, worst_mistakes
from torchmill.components.evaluation.plots import draw_calibration, draw_confusion, draw_labels, draw_targets
from torchmill.components.evaluation.predictions import Answer, Predictions, predict
from torchmill.components.files import write_text
from torchmill.components.initialization.standardized_model import StandardizedModel
from torchmill.components.metrics import calibration
from torchmill.components.metrics.intervals import Interval, mean_interval, share_interval, wilson_interval
from torchmill.components.metrics.ranking import Ranking, rank
from torchmill.components.metrics.scores import (
    ClassScore,
    class_scores,
    confusion_matrix,
    label_intervals,
    label_scores,
    macro_intervals,
    mean_r2_interval,
    target_intervals,
    target_scores,
    top_accuracies,
)
from torchmill.components.refs import DataRef, EvaluationRef, FileRef, Task
from torchmill.components.training.losses import plain_loss, plain_losses

POINTS = 1000
"""Of residuals, at most, in the report."""


NEEDED = ("sklearn.metrics", "matplotlib.figure", "matplotlib.backends.backend_agg", "captum.attr")
"""What is imported only when it is needed."""


def warm_up() -> None:
    """Import what an evaluation needs, which takes seconds, beside what this process does or waits for."""
    threading.Thread(target=lambda: [importlib.import_module(name) for name in NEEDED], daemon=True).start()


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
    pictures: dict[str, Callable[[Path], None]]
    """By file name; truth against answers is the first."""


def evaluate(
    network: nn.Module,
    test: Samples,
    data: DataRef,
    device: torch.device,
    batch_size: int,
    folder: Path,
    validation: Samples | None = None,
) -> EvaluationRef:
    """Score a network on the test split; writes ``evaluation.json``, ``predictions.npz`` and pictures into ``folder``.

    Args:
        validation: samples by which the temperature of a classification is fitted; none leaves it at 1.
    """
    model = StandardizedModel.of(network, data).to(device).eval()

    def answer(samples: Samples) -> Tensor:
        return predict(model, samples.to(device), batch_size)

    temperature = 1.0
    if data.task == "classification" and validation is not None and len(validation):
        temperature = calibration.fit_temperature(answer(validation).numpy(), validation.labels.numpy())
    return judge(answer, test, data, folder, temperature, model)


def judge(
    answer: Answer,
    test: Samples,
    data: DataRef,
    folder: Path,
    temperature: float = 1.0,
    model: StandardizedModel | None = None,
    encoding: Encoding | None = None,
) -> EvaluationRef:
    """Score whatever answers to raw inputs, as ``evaluate`` does; saliency is for a network in torch alone.

    Args:
        encoding: of the test inputs, where that is not the data set's.
    """
    outputs = answer(test)
    found = SCORED[data.task](outputs, test.labels, data, temperature)
    encoding = encoding or read_encoding(data)
    numbers, truth = outputs.numpy(), test.labels.numpy()
    mistakes = worst_mistakes(numbers, truth, data, temperature)
    pictures = dict(found.pictures)
    if mistakes and data.kind == "images":
        pictures["mistakes.png"] = lambda path: draw_mistakes(mistakes, test, path)
    for name, draw in pictures.items():
        draw(folder / name)
    seen, changes = _changes(answer, test, data) if data.kind == "images" else ({}, {})
    explained = _explained(model, test, data, numbers, mistakes, encoding, folder) if model else saliency.Saliency()
    names = [*pictures, *([explained.picture.name] if explained.picture else [])]
    report = {
        "samples": len(test),
        "measure": data.measure,
        data.measure: found.score,
        f"{data.measure}_95": [found.low, found.high],
        **found.others,
        "loss": found.loss,
        **found.parts,
        **changes,
        **_groups(numbers, test, data),
        "mistakes": tell(mistakes, test, encoding),
        "saliency": {"notes": explained.notes, "texts": explained.texts},
        "pictures": names,
    }
    write_text(folder / "evaluation.json", json.dumps(report, indent=1))
    Predictions(numbers, truth, temperature).write(folder / "predictions.npz")
    drawn = [FileRef.of(folder / name) for name in names]
    return EvaluationRef(
        measure=data.measure,
        score=found.score,
        score_low=found.low,
        score_high=found.high,
        others=found.others | seen,
        loss=found.loss,
        samples=len(test),
        temperature=temperature,
        report=FileRef.of(folder / "evaluation.json"),
        picture=drawn[0],
        pictures=tuple(drawn[1:]),
        predictions=FileRef.of(folder / "predictions.npz"),
    )


def of_classes(logits: Tensor, labels: Tensor, data: DataRef, temperature: float = 1.0) -> Scores:
    """Score one class per sample: accuracy, top-k, balanced accuracy, macro F1, calibration and ranking."""
    outputs, truth = logits.numpy(), labels.numpy()
    answers, samples = outputs.argmax(1), len(truth)
    right = int((answers == truth).sum())
    low, high = wilson_interval(right, samples)
    confusion = confusion_matrix(truth, answers, len(data.classes))
    by_class = class_scores(confusion)
    macro = macro_intervals(confusion)
    others = {name: value for name, (value, _) in macro.items()}
    others |= {f"{name}_{end}": one for name, (_, ends) in macro.items() for end, one in zip(ENDS, ends, strict=True)}
    intervals = {f"{name}_95": list(ends) for name, (_, ends) in macro.items()}
    for k, hits in top_accuracies(outputs, truth).items():
        others[f"top_{k}_accuracy"] = hits / samples
        intervals[f"top_{k}_accuracy_95"] = list(wilson_interval(hits, samples))
    calibrated = _calibration(outputs, truth, temperature)
    for name, when in (("", "before"), ("_calibrated", "after")):
        others[f"ece{name}"] = calibrated[when]["ece"]
        intervals[f"ece{name}_95"] = calibrated[when]["ece_95"]
    others["loss_calibrated"] = calibrated["after"]["loss"]
    intervals["loss_95"] = _loss_interval("classification", logits, labels)
    ranking = rank(_probabilities(logits), truth[:, None] == np.arange(len(data.classes)))
    return Scores(
        score=right / samples,
        low=low,
        high=high,
        others=others | _areas(ranking),
        loss=plain_loss(data.task)(logits, labels).item(),
        parts={
            **intervals,
            **_area_intervals(ranking),
            "classes": {name: _with_interval(score) for name, score in zip(data.classes, by_class, strict=True)},
            "confusion": {"rows": "truth", "columns": "answer", "counts": confusion.tolist()},
            "calibration": calibrated,
            "ranking": _ranking(ranking, data),
        },
        pictures={
            "confusion.png": lambda path: draw_confusion(confusion, data.classes, path),
            "calibration.png": lambda path: draw_calibration(calibrated, path),
        },
    )


ENDS = ("low", "high")


def _probabilities(logits: Tensor) -> np.ndarray:
    return logits.double().softmax(1).numpy()


def _calibration(outputs: np.ndarray, truth: np.ndarray, temperature: float) -> dict[str, Any]:
    right = outputs.argmax(1) == truth
    told: dict[str, Any] = {"temperature": temperature, "bins": f"{calibration.BINS} of equal width"}
    for when, divided_by in (("before", 1.0), ("after", temperature)):
        bins = calibration.reliability(calibration.confidences(outputs, divided_by), right)
        told[when] = {
            "ece": calibration.expected_calibration_error(bins),
            "ece_95": list(calibration.calibration_error_interval(bins)),
            "loss": float(calibration.losses(outputs, truth, divided_by).mean()),
            "bins": [dataclasses.asdict(one) for one in bins],
        }
    change, ends = calibration.loss_change(outputs, truth, temperature)
    return {**told, "loss_change": change, "loss_change_95": list(ends)}


def _areas(ranking: Ranking | None) -> dict[str, float]:
    return {"roc_auc": ranking.macro_auc, "average_precision": ranking.macro_precision} if ranking else {}


def _area_intervals(ranking: Ranking | None) -> dict[str, list[float]]:
    if ranking is None:
        return {}
    return {"roc_auc_95": list(ranking.auc_95), "average_precision_95": list(ranking.precision_95)}


def _ranking(ranking: Ranking | None, data: DataRef) -> dict[str, Any] | None:
    if ranking is None:
        return None
    named = {number: data.classes[number] for number in ranking.roc_auc}
    return {
        "classes": {
            name: {"roc_auc": ranking.roc_auc[number], "average_precision": ranking.average_precision[number]}
            for number, name in named.items()
        },
        "true_positive_rate": ranking.true_positive_rate,
        "precision": ranking.precision,
    }


def _with_interval(score: ClassScore) -> dict[str, Any]:
    """A class's scores; the 95 % interval of its precision or recall is none where that has no cases."""
    ends = {}
    for name, share, cases in (("precision", score.precision, score.answered), ("recall", score.recall, score.support)):
        ends[f"{name}_95"] = list(wilson_interval(round(share * cases), cases)) if cases else None
    return {**dataclasses.asdict(score), **ends}


def of_labels(logits: Tensor, labels: Tensor, data: DataRef, _: float = 1.0) -> Scores:
    """Score yes and no for each label: share of right ones, of samples with all right, F1 over all and per label."""
    truth, answers = labels.numpy() > 0.5, logits.numpy() > 0
    right = truth == answers
    by_label = label_scores(truth, answers)
    f1 = label_intervals(truth, answers)
    low, high = share_interval(right.mean(1))
    chances = logits.double().sigmoid().numpy()
    ranking = rank(chances, truth)
    calibrated = [calibration.reliability(chance, yes) for chance, yes in zip(chances.T, truth.T, strict=True)]
    errors = [calibration.expected_calibration_error(bins) for bins in calibrated]
    exact = int(right.all(1).sum())
    classes = {name: _with_interval(score) for name, score in zip(data.classes, by_label, strict=True)}
    for number, (told, bins, error) in enumerate(zip(classes.values(), calibrated, errors, strict=True)):
        told["ece"] = error
        told["average_precision"] = ranking.average_precision.get(number) if ranking else None
        told["reliability"] = [dataclasses.asdict(one) for one in bins]
    return Scores(
        score=float(right.mean()),
        low=low,
        high=high,
        others={
            "exact_match": exact / len(truth),
            **{name: value for name, (value, _) in f1.items()},
            "ece": sum(errors) / len(errors),
            **_areas(ranking),
        },
        loss=plain_loss("multilabel")(logits, labels).item(),
        parts={
            "exact_match_95": list(wilson_interval(exact, len(truth))),
            **{f"{name}_95": list(ends) for name, (_, ends) in f1.items()},
            "loss_95": _loss_interval("multilabel", logits, labels),
            **_area_intervals(ranking),
            "classes": classes,
            "ranking": _ranking(ranking, data),
        },
        pictures={"labels.png": lambda path: draw_labels(by_label, data.classes, path)},
    )


def of_targets(values: Tensor, labels: Tensor, data: DataRef, _: float = 1.0) -> Scores:
    """Score numbers: explained variance (mean over targets), errors per target in its own unit."""
    truth, answers = labels.numpy(), values.numpy()
    by_target = target_scores(truth, answers)
    intervals = target_intervals(truth, answers)
    low, high = mean_r2_interval(truth, answers)
    spread = torch.tensor([value or 1.0 for value in data.target_std])
    others = {"mae": by_target[0].mae, "rmse": by_target[0].rmse} if len(by_target) == 1 else {}
    shown = np.sort(np.random.default_rng(0).permutation(len(truth))[:POINTS])
    targets = {}
    for number, (name, score, ends) in enumerate(zip(data.classes, by_target, intervals, strict=True)):
        targets[name] = dataclasses.asdict(score) | {f"{error}_95": list(pair) for error, pair in ends.items()}
        targets[name]["residuals"] = {
            "truth": _short(truth[shown, number]),
            "answer": _short(answers[shown, number]),
        }
    return Scores(
        score=sum(score.r2 for score in by_target) / len(by_target),
        low=low,
        high=high,
        others=others,
        loss=plain_loss("regression")(values / spread, labels / spread).item(),
        parts={
            "loss_95": _loss_interval("regression", values / spread, labels / spread),
            "targets": targets,
        },
        pictures={"targets.png": lambda path: draw_targets(truth, answers, data.classes, path)},
    )


def _loss_interval(task: Task, outputs: Tensor, labels: Tensor) -> list[float]:
    return list(mean_interval(plain_losses(task, outputs, labels).double().numpy()))


def _short(values: np.ndarray) -> list[float]:
    return [float(f"{value:.5g}") for value in values.tolist()]


SCORED: dict[Task, Callable[[Tensor, Tensor, DataRef, float], Scores]] = {
    "classification": of_classes,
    "multilabel": of_labels,
    "regression": of_targets,
}


def _changes(answer: Answer, test: Samples, data: DataRef) -> tuple[dict[str, float], dict[str, Any]]:
    """Score changed images; gives the lowest of the scores as a metric, and all of them for the report."""
    some = robustness.some(test)
    rows = {"as they are": _score(answer(some), some, data)}
    rows |= {name: _score(answer(robustness.changed(some, name)), some, data) for name in robustness.CHANGES}
    told = [{"images": name, "score": score, "score_95": list(ends)} for name, (score, ends) in rows.items()]
    lowest = min(score for score, _ in rows.values())
    return {f"lowest_{data.measure}_of_changed": lowest}, {"robustness": {"samples": len(some), "changes": told}}


def _score(outputs: Tensor, samples: Samples, data: DataRef) -> tuple[float, Interval]:
    """Give the first measure alone, with its 95 % interval."""
    numbers, truth = outputs.numpy(), samples.labels.numpy()
    match data.task:
        case "classification":
            right = int((numbers.argmax(1) == truth).sum())
            return right / len(truth), wilson_interval(right, len(truth))
        case "multilabel":
            shares = ((numbers > 0) == (truth > 0.5)).mean(1)
            return float(shares.mean()), share_interval(shares)
        case _:
            scores = target_scores(truth, numbers)
            return sum(one.r2 for one in scores) / len(scores), mean_r2_interval(truth, numbers)


def _groups(outputs: np.ndarray, test: Samples, data: DataRef) -> dict[str, Any]:
    if data.task == "regression":
        return {}
    truth = test.labels.numpy()
    wrong = outputs.argmax(1) != truth if truth.ndim == 1 else ((outputs > 0) != (truth > 0.5)).any(1)
    return {"error_groups": [dataclasses.asdict(group) for group in error_slices(wrong, test, data)]}


def _explained(
    model: StandardizedModel,
    test: Samples,
    data: DataRef,
    outputs: np.ndarray,
    mistakes: Sequence[Mistake],
    encoding: Encoding | None,
    folder: Path,
) -> saliency.Saliency:
    chosen = saliency.cases(outputs, test.labels.numpy(), data, mistakes)
    return saliency.explain(model, test, data, chosen, encoding, folder)
