"""How good is a trained network on the test split, how sure is that, and what is it wrong about."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from torchmill.components.data.encoding import Encoding, read_encoding
from torchmill.components.data.samples import Samples
from torchmill.components.evaluation.analysis import robustness, saliency
from torchmill.components.evaluation.analysis.error_slices import error_slices
from torchmill.components.evaluation.analysis.mistakes import draw_mistakes, tell, worst_mistakes
from torchmill.components.evaluation.evaluation import Evaluation
from torchmill.components.evaluation.predictions import Answer, predict
from torchmill.components.initialization.standardized_model import StandardizedModel
from torchmill.components.metrics.intervals import Interval
from torchmill.components.metrics.predictions import Predictions
from torchmill.components.refs import DataRef, EvaluationRef, FileRef
from torchmill.components.tasks import Mistake

NEEDED = ("sklearn.metrics", "matplotlib.figure", "matplotlib.backends.backend_agg", "captum.attr")
"""Modules that an evaluation imports late, since they take seconds."""


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
    if data.task_object.has_temperature and validation is not None and len(validation):
        temperature = data.task_object.fit_temperature(answer(validation).numpy(), validation.labels.numpy())
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
    found = data.task_object.scores(outputs, test.labels, data.classes, data.target_units, temperature)
    encoding = encoding or read_encoding(data)
    numbers, truth = outputs.numpy(), test.labels.numpy()
    mistakes = worst_mistakes(numbers, truth, data, temperature)
    pictures = dict(found.pictures)
    if mistakes and data.field.is_picture:
        pictures["mistakes.png"] = lambda path: draw_mistakes(mistakes, test, path)
    for name, draw in pictures.items():
        draw(folder / name)
    seen, changes = _changes(answer, test, data) if data.field.is_picture else ({}, {})
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
    Evaluation.model_validate(report).write(folder / "evaluation.json")
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


def _changes(answer: Answer, test: Samples, data: DataRef) -> tuple[dict[str, float], dict[str, Any]]:
    """Score changed images; gives the lowest of the scores as a metric, and all of them for the report."""
    some = robustness.some(test)
    rows = {"as they are": _score(answer(some), some, data)}
    rows |= {name: _score(answer(robustness.changed(some, name)), some, data) for name in robustness.CHANGES}
    told = [{"images": name, "score": score, "score_95": list(ends)} for name, (score, ends) in rows.items()]
    lowest = min(score for score, _ in rows.values())
    return {f"lowest_{data.measure}_of_changed": lowest}, {"robustness": {"samples": len(some), "changes": told}}


def _score(outputs: Tensor, samples: Samples, data: DataRef) -> tuple[float, Interval]:
    """Return the main measure alone, with its 95 % interval."""
    numbers, truth = outputs.numpy(), samples.labels.numpy()
    return data.task_object.score(numbers, truth), data.task_object.interval(numbers, truth)


def _groups(outputs: np.ndarray, test: Samples, data: DataRef) -> dict[str, Any]:
    wrong = data.task_object.wrong(outputs, test.labels.numpy())
    if wrong is None:
        return {}
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
