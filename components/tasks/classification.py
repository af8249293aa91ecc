"""One class for each sample."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from torchmill.components.batches.field_refs import FieldRef
from torchmill.components.tasks import Labels, Mistake, Scores, Statistics
from torchmill.components.tasks._label_field import label_field, outputs_for

if TYPE_CHECKING:
    from onnx import ModelProto
    from torch import Tensor, nn

    from torchmill.components.batches.batch import Batch
    from torchmill.components.metrics.intervals import Interval
    from torchmill.components.metrics.paired import Difference, Pairing
    from torchmill.components.metrics.predictions import Predictions


MOST_SCORES = 100
"""Largest number of classes that are counted one by one."""

FEW = 8
"""Largest number of classes that have an F1 each among the measures."""


class Classification:
    """Loss: cross-entropy. The network gives logits (N, classes), for any inputs.

    Measures: ``accuracy`` (the main one); ``cross_entropy``, the mean loss, nats; ``macro_f1``, the mean of the F1 of
    classes that occur, up to 100 classes; and ``NAME_f1`` of each class, up to 8.
    """

    main_measure = "accuracy"

    def __init__(self, fields: Mapping[str, FieldRef]):
        remedy = "Return {…, 'label': a class for each sample}, names or whole numbers from 0."
        self.target = label_field(fields, self.fits, "Classification", remedy)
        self.outputs = self.target.size

    @staticmethod
    def fits(target: FieldRef) -> str:
        return "is a class for each sample" if target.kind == "ids" and not target.shape else ""

    def loss(self, network: "nn.Module", batch: "Batch") -> "Tensor":
        from torch.nn import functional as F

        return F.cross_entropy(self._logits(network, batch), batch[self.target.name])

    def predict(self, network: "nn.Module", inputs: "Batch") -> "dict[str, Tensor]":
        """Return ``logits`` and ``probabilities`` (N, classes), and ``index``: the likeliest class, (N,)."""
        logits = self._logits(network, inputs)
        return {"logits": logits, "probabilities": logits.softmax(1), "index": logits.argmax(1)}

    def measure(self, answer: "Mapping[str, Tensor]", batch: "Batch") -> "dict[str, Tensor]":
        from torch.nn import functional as F

        truth, index = batch[self.target.name], answer["index"]
        right = truth == index
        values = {"accuracy": right, "cross_entropy": F.cross_entropy(answer["logits"], truth, reduction="none")}
        if self.outputs > MOST_SCORES:
            return values
        true, answered = (F.one_hot(classes, self.outputs) for classes in (truth, index))
        return {**values, "class_right": true * right[:, None], "class_true": true, "class_answered": answered}

    def summarize(self, means: "Mapping[str, Tensor]") -> "dict[str, Tensor]":
        values = {name: means[name] for name in ("accuracy", "cross_entropy")}
        if "class_true" not in means:
            return values
        true, answered = means["class_true"], means["class_answered"]
        f1 = 2 * means["class_right"] / (true + answered).clamp(min=1e-12)
        values["macro_f1"] = f1[true > 0].mean()
        names = self.target.names if self.outputs <= FEW else ()
        return values | {f"{name}_f1": score for name, score in zip(names, f1, strict=False)}

    def _logits(self, network: "nn.Module", batch: "Batch") -> "Tensor":
        return outputs_for(network, batch, self.outputs, "logits")


class LabelClassification:
    name = "classification"
    singular, plural = "class", "classes"
    output_words = "a logit for each class"
    mistakes_title, mistakes_note = "Worst mistakes", "Wrong, and most sure of it."
    main_measure, is_share = "accuracy", True

    loss_words, activation = "cross-entropy", "softmax"
    counts_right = True
    is_exclusive = True
    has_temperature = True

    onnx_output, has_probabilities = "logits", True

    def describe_data(self, outputs: str) -> str:
        return ""

    # Labels

    def recognizes(self, labels: np.ndarray) -> bool:
        return labels.ndim == 1 and labels.dtype.kind != "f"

    def doubts(self, labels: np.ndarray) -> str:
        return ""

    def read_labels(self, labels: Labels, place: str, names: tuple[str, ...]) -> tuple[Labels, tuple[str, ...]]:
        from torchmill.components.encoding import class_names

        return class_names.read(labels, place, names)

    def faults(self, labels: np.ndarray, samples: int, outputs: int) -> list[str]:
        if labels.dtype != np.int64 or labels.shape != (samples,):
            return [f"labels are {labels.dtype} {labels.shape}, not int64 ({samples},)"]
        if not 0 <= labels.min() <= labels.max() < outputs:
            return [f"labels go from {labels.min()} to {labels.max()}, with {outputs} classes"]
        return []

    def statistics(self, labels: np.ndarray) -> tuple[tuple[float, ...], tuple[float, ...]]:
        return (), ()

    def trained_on(self, labels: np.ndarray, statistics: tuple[Sequence[float], Sequence[float]] | None) -> np.ndarray:
        return labels

    def counts(self, labels: np.ndarray, outputs: int) -> np.ndarray:
        return np.bincount(labels, minlength=outputs)

    # Training

    def plain_loss(self, outputs: "Tensor", labels: "Tensor") -> "Tensor":
        """Return the mean cross-entropy, nats."""
        from torch.nn import functional as F

        return F.cross_entropy(outputs, labels)

    def plain_losses(self, outputs: "Tensor", labels: "Tensor") -> "Tensor":
        from torch.nn import functional as F

        return F.cross_entropy(outputs, labels, reduction="none")

    def score_sum(self, outputs: "Tensor", labels: "Tensor") -> "Tensor":
        """Return the number of right answers; of shares of classes, (N, K), the largest counts."""
        truth = labels.argmax(1) if labels.is_floating_point() else labels
        return (outputs.argmax(1) == truth).sum()

    def shares(self, labels: "Tensor", outputs: int) -> "Tensor":
        from torch.nn.functional import one_hot

        return one_hot(labels, outputs).float()

    def class_weights(self, labels: "Tensor", outputs: int) -> "Tensor":
        """Return weights inverse to the classes' frequency (King & Zeng 2001, scikit-learn's rule)."""
        return len(labels) / (outputs * labels.bincount(minlength=outputs).clamp(min=1)).float()

    def mean_weight(self, weights: "Tensor", labels: "Tensor") -> "Tensor":
        return weights[labels].mean()

    # Evaluation

    def measure(self, outputs: np.ndarray, truth: np.ndarray) -> Statistics:
        from torchmill.components.metrics.calibration import losses

        return {"accuracy": outputs.argmax(1) == truth, "cross_entropy": losses(outputs, truth)}

    def summarize(self, statistics: Statistics) -> dict[str, float]:
        return {name: float(values.mean()) for name, values in statistics.items()}

    def score(self, outputs: np.ndarray, truth: np.ndarray) -> float:
        return float((outputs.argmax(1) == truth).mean())

    def interval(self, outputs: np.ndarray, truth: np.ndarray) -> "Interval":
        from torchmill.components.metrics.intervals import wilson_interval

        return wilson_interval(int((outputs.argmax(1) == truth).sum()), len(truth))

    def fit_temperature(self, outputs: np.ndarray, truth: np.ndarray) -> float:
        from torchmill.components.metrics.calibration import fit_temperature

        return fit_temperature(outputs, truth)

    def scores(
        self, outputs: "Tensor", labels: "Tensor", names: Sequence[str], spread: Sequence[float], temperature: float
    ) -> Scores:
        """Return accuracy, top-k, balanced accuracy, macro F1, calibration and ranking."""
        from torchmill.components.metrics.intervals import mean_interval, wilson_interval
        from torchmill.components.metrics.plots import draw_calibration, draw_confusion
        from torchmill.components.metrics.ranking import rank
        from torchmill.components.metrics.scores import (
            class_scores,
            confusion_matrix,
            macro_intervals,
            top_accuracies,
            with_intervals,
        )

        logits, truth = outputs.numpy(), labels.numpy()
        answers, samples = logits.argmax(1), len(truth)
        right = int((answers == truth).sum())
        low, high = wilson_interval(right, samples)
        confusion = confusion_matrix(truth, answers, len(names))
        macro = macro_intervals(confusion)
        others = {name: value for name, (value, _) in macro.items()}
        for name, (_, ends) in macro.items():
            others |= {f"{name}_low": ends[0], f"{name}_high": ends[1]}
        intervals = {f"{name}_95": list(ends) for name, (_, ends) in macro.items()}
        for k, hits in top_accuracies(logits, truth).items():
            others[f"top_{k}_accuracy"] = hits / samples
            intervals[f"top_{k}_accuracy_95"] = list(wilson_interval(hits, samples))
        calibrated = _calibration(logits, truth, temperature)
        for suffix, when in (("", "before"), ("_calibrated", "after")):
            others[f"ece{suffix}"] = calibrated[when]["ece"]
            intervals[f"ece{suffix}_95"] = calibrated[when]["ece_95"]
        others["loss_calibrated"] = calibrated["after"]["loss"]
        intervals["loss_95"] = list(mean_interval(self.plain_losses(outputs, labels).double().numpy()))
        ranking = rank(outputs.double().softmax(1).numpy(), truth[:, None] == np.arange(len(names)))
        by_class = zip(names, class_scores(confusion), strict=True)
        return Scores(
            score=right / samples,
            low=low,
            high=high,
            others=others | (ranking.areas() if ranking else {}),
            loss=self.plain_loss(outputs, labels).item(),
            parts={
                **intervals,
                **(ranking.intervals() if ranking else {}),
                "classes": {name: with_intervals(score) for name, score in by_class},
                "confusion": _confusion(confusion),
                "calibration": calibrated,
                "ranking": ranking.as_plain(names) if ranking else None,
            },
            pictures={
                "confusion.png": lambda path: draw_confusion(confusion, names, path),
                "calibration.png": lambda path: draw_calibration(calibrated, path),
            },
        )

    def wrong(self, outputs: np.ndarray, truth: np.ndarray) -> np.ndarray:
        return outputs.argmax(1) != truth

    def worst_mistakes(
        self,
        outputs: np.ndarray,
        truth: np.ndarray,
        names: Sequence[str],
        spread: Sequence[float],
        temperature: float,
        most: int,
    ) -> list[Mistake]:
        from torchmill.components.metrics.calibration import confidences
        from torchmill.components.metrics.scores import highest

        answers, sure = outputs.argmax(1), confidences(outputs, temperature)
        wrong = np.flatnonzero(answers != truth)
        return [
            Mistake(row, int(answers[row]), names[truth[row]], names[answers[row]], float(sure[row]))
            for row in highest(wrong, sure[wrong], most)
        ]

    def pair(self, first: "Predictions", second: "Predictions") -> "Pairing":
        from torchmill.components.metrics.calibration import losses
        from torchmill.components.metrics.paired import (
            Difference,
            Pairing,
            difference_interval,
            difference_of_means,
            first_rows,
            mcnemar,
        )

        truth = first.truth
        rights = [one.outputs.argmax(1) == truth for one in (first, second)]
        discordant = mcnemar(rights[0], rights[1])
        costs = [losses(one.outputs, truth) for one in (first, second)]
        tempered = [losses(one.outputs, truth, one.temperature) for one in (first, second)]
        shares = [float(right.mean()) for right in rights]
        return Pairing(
            samples=len(truth),
            differences=(
                Difference("accuracy", shares[0], shares[1], shares[1] - shares[0], difference_interval(discordant)),
                _difference_of_macro_f1(first, second),
                difference_of_means("cross-entropy", costs),
                difference_of_means("cross-entropy after temperature", tempered),
            ),
            mcnemar=discordant,
            only_first=first_rows(rights[0] & ~rights[1]),
            only_second=first_rows(rights[1] & ~rights[0]),
        )

    # Comparison of an export with its network

    def answers(self, outputs: np.ndarray) -> np.ndarray:
        return outputs.argmax(1)[:, None]

    def differing(self, outputs: np.ndarray, reference: np.ndarray, allowed: float) -> np.ndarray:
        return outputs.argmax(1) != reference.argmax(1)

    def undecided(self, reference: np.ndarray, allowed: float) -> np.ndarray:
        """Return samples whose two best logits are so near that an allowed difference may swap them."""
        if reference.shape[1] < 2:
            return np.ones(len(reference), bool)
        best_two = np.sort(reference, axis=1)[:, -2:]
        return best_two[:, 1] - best_two[:, 0] <= 2 * allowed

    # ONNX model

    def describe_output(self, outputs: int) -> str:
        return (
            f"logits and probabilities, float32 (batch, {outputs}); labels and index, name and number of the "
            "likeliest, string and int64 (batch)"
        )

    def exported(self, outputs: Sequence[str], description: str) -> bool:
        return "values" not in outputs and "above 0 is yes" not in description

    def postprocessing(self, names: Sequence[str], temperature: float) -> "ModelProto":
        from torchmill.components.onnx_graph.answers import classes

        return classes(names, temperature).to_model_proto()

    def probabilities(self, outputs: np.ndarray, temperature: float) -> np.ndarray:
        logits = outputs.astype(np.float64) / temperature
        raised = np.exp(logits - logits.max(1, keepdims=True))
        return raised / raised.sum(1, keepdims=True)

    def labels(self, outputs: np.ndarray, names: Sequence[str]) -> np.ndarray:
        return np.array(names, dtype=object)[outputs.argmax(1)]

    # Predictions

    def confidence(self, answers: np.ndarray) -> np.ndarray:
        return answers.max(1)

    def answer_words(self, answer: np.ndarray, names: Sequence[str]) -> str:
        return names[int(answer.argmax())]


MOST_COUNTS = 100
"""Number of classes above which a report lists the cells that have samples: there are a million for 1,000 classes."""


def _confusion(counts: np.ndarray) -> dict[str, Any]:
    entry: dict[str, Any] = {"rows": "truth", "columns": "answer"}
    if len(counts) <= MOST_COUNTS:
        return {**entry, "counts": counts.tolist()}
    rows, columns = np.nonzero(counts)
    return {**entry, "cells": np.stack([rows, columns, counts[rows, columns]], 1).tolist()}


def _calibration(logits: np.ndarray, truth: np.ndarray, temperature: float) -> dict[str, Any]:
    from torchmill.components.metrics import calibration

    right = logits.argmax(1) == truth
    details: dict[str, Any] = {"temperature": temperature, "bins": f"{calibration.BINS} of equal width"}
    for when, divisor in (("before", 1.0), ("after", temperature)):
        bins = calibration.reliability(calibration.confidences(logits, divisor), right)
        details[when] = {
            "ece": calibration.expected_calibration_error(bins),
            "ece_95": list(calibration.calibration_error_interval(bins)),
            "loss": float(calibration.losses(logits, truth, divisor).mean()),
            "bins": [dataclasses.asdict(one) for one in bins],
        }
    change, ends = calibration.loss_change(logits, truth, temperature)
    return {**details, "loss_change": change, "loss_change_95": list(ends)}


def _difference_of_macro_f1(first: "Predictions", second: "Predictions") -> "Difference":
    from scipy.sparse import csr_array

    from torchmill.components.metrics.intervals import bootstrap_intervals
    from torchmill.components.metrics.paired import Difference

    classes = first.outputs.shape[1]
    answers = [one.outputs.argmax(1) for one in (first, second)]
    # Samples differ in truth and both answers alone: each such triple, with its count.
    triples = np.stack([first.truth, *answers], 1)
    distinct, counts = np.unique(triples, axis=0, return_counts=True)
    rows, places = np.arange(len(distinct)), []
    # Per class: samples, and of each network right answers and answers.
    places.append((rows, distinct[:, 0]))
    for number in (1, 2):
        answered, start = distinct[:, number], (2 * number - 1) * classes
        right = answered == distinct[:, 0]
        places += [(rows[right], start + answered[right]), (rows, start + classes + answered)]
    at, columns = (np.concatenate(part) for part in zip(*places, strict=True))
    features = csr_array((np.ones(len(at)), (at, columns)), (len(distinct), 5 * classes))

    def macro(sums: np.ndarray) -> np.ndarray:
        support, *rest = (sums[..., start : start + classes] for start in range(0, 5 * classes, classes))
        f1 = [(2 * rest[at] / np.maximum(support + rest[at + 1], 1)).mean(-1) for at in (0, 2)]
        return np.stack([*f1, f1[1] - f1[0]], -1)

    before, after, change = map(float, macro(counts @ features))
    low, high = bootstrap_intervals(features, lambda sums: macro(sums)[..., 2:], counts)[0]
    return Difference("macro F1", before, after, change, (float(low), float(high)))
