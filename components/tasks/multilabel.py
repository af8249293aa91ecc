"""Yes or no for each of several labels."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from torchmill.components.batches.field_refs import FieldRef
from torchmill.components.tasks import Labels, Mistake, Scores, Statistics
from torchmill.components.tasks._label_field import label_field, outputs_for

if TYPE_CHECKING:
    from onnx import ModelProto
    from torch import Tensor, nn

    from torchmill.components.batches.batch import Batch
    from torchmill.components.metrics.intervals import Interval
    from torchmill.components.metrics.paired import Pairing
    from torchmill.components.metrics.predictions import Predictions


class Multilabel:
    """Loss: binary cross-entropy. The network gives logits (N, labels), for any inputs.

    Measures: ``label_accuracy`` (the main one), the share of right labels; ``exact_match``, the share of samples with
    all labels right; and ``macro_f1``, the mean F1 of labels that occur.
    """

    main_measure = "label_accuracy"

    def __init__(self, fields: Mapping[str, FieldRef]):
        remedy = "Return {…, 'labels': 0 or 1 for each label, integers (N, K)}."
        self.target = label_field(fields, self.fits, "Yes or no for several labels", remedy)
        (self.outputs,) = self.target.shape

    @staticmethod
    def fits(target: FieldRef) -> str:
        if target.kind != "ids" or len(target.shape) != 1 or target.size > 2 or target.ragged:
            return ""
        return "are 0 or 1 for each label" if len(target.names) in (0, target.shape[0]) else ""

    def loss(self, network: "nn.Module", batch: "Batch") -> "Tensor":
        return self.losses(self._logits(network, batch), batch).mean()

    def losses(self, logits: "Tensor", batch: "Batch") -> "Tensor":
        from torch.nn import functional as F

        truth = batch[self.target.name].to(logits)
        return F.binary_cross_entropy_with_logits(logits, truth, reduction="none").mean(1)

    def predict(self, network: "nn.Module", inputs: "Batch") -> "dict[str, Tensor]":
        """Return ``logits`` and ``probabilities`` (N, labels), and ``labels``: 1 for yes, int64 (N, labels)."""
        logits = self._logits(network, inputs)
        return {"logits": logits, "probabilities": logits.sigmoid(), "labels": (logits > 0).long()}

    def measure(self, answer: "Mapping[str, Tensor]", batch: "Batch") -> "dict[str, Tensor]":
        truth, labels = batch[self.target.name], answer["labels"]
        right = truth == labels
        return {
            "label_accuracy": right.double().mean(1),
            "exact_match": right.all(1),
            "cross_entropy": self.losses(answer["logits"], batch),
            "label_right": truth * labels,
            "label_true": truth,
            "label_answered": labels,
        }

    def summarize(self, means: "Mapping[str, Tensor]") -> "dict[str, Tensor]":
        true, answered = means["label_true"], means["label_answered"]
        f1 = 2 * means["label_right"] / (true + answered).clamp(min=1e-12)
        values = {name: means[name] for name in ("label_accuracy", "exact_match", "cross_entropy")}
        return {**values, "macro_f1": f1[true > 0].mean() if bool((true > 0).any()) else true.sum()}

    def _logits(self, network: "nn.Module", batch: "Batch") -> "Tensor":
        return outputs_for(network, batch, self.outputs, "a logit for each label")


class LabelMultilabel:
    name = "multilabel"
    singular, plural = "label", "labels"
    output_words = "a logit for each label"
    mistakes_title, mistakes_note = "Worst mistakes", "Wrong, and most sure of it."
    main_measure, is_share = "label_accuracy", True

    loss_words, activation = "binary cross-entropy", "sigmoid"
    counts_right = False
    is_exclusive = False
    has_temperature = False

    onnx_output, has_probabilities = "logits", True

    def describe_data(self, outputs: str) -> str:
        return f", yes or no for {outputs}"

    # Labels

    def recognizes(self, labels: np.ndarray) -> bool:
        return labels.ndim == 2 and labels.dtype.kind in "biu" and labels.min() >= 0 and labels.max() <= 1

    def doubts(self, labels: np.ndarray) -> str:
        if labels.shape[1] > 1 and (labels.sum(1) == 1).all():
            return (
                f"each sample has exactly one of the {labels.shape[1]} labels, and they are taken as yes or no each. "
                'Where they are classes, say "task": "classification" beside "train".'
            )
        return ""

    def read_labels(self, labels: Labels, place: str, names: tuple[str, ...]) -> tuple[Labels, tuple[str, ...]]:
        from torchmill.components.encoding.class_names import width_of
        from torchmill.components.errors import UserError

        width = width_of(labels, place, names)
        for split, array in labels.items():
            if array.dtype.kind not in "biuf" or not ((array == 0) | (array == 1)).all():
                raise UserError(
                    f"{place}: labels of {split} are not all 0 or 1.", "Several yes or no are (N, K) of 0 and 1."
                )
        values = {split: array.reshape(len(array), -1).astype(np.uint8) for split, array in labels.items()}
        return values, names or tuple(f"label {number}" for number in range(width))

    def faults(self, labels: np.ndarray, samples: int, outputs: int) -> list[str]:
        if labels.dtype != np.uint8 or labels.shape != (samples, outputs):
            return [f"labels are {labels.dtype} {labels.shape}, not uint8 ({samples}, {outputs})"]
        if labels.max() > 1:
            return [f"labels go up to {labels.max()}, and not from 0 to 1"]
        return []

    def statistics(self, labels: np.ndarray) -> tuple[tuple[float, ...], tuple[float, ...]]:
        return (), ()

    def trained_on(self, labels: np.ndarray, statistics: tuple[Sequence[float], Sequence[float]] | None) -> np.ndarray:
        return labels.astype(np.float32)

    def counts(self, labels: np.ndarray, outputs: int) -> np.ndarray:
        return labels.sum(0, np.int64)

    # Training

    def plain_loss(self, outputs: "Tensor", labels: "Tensor") -> "Tensor":
        """Return the mean binary cross-entropy, nats."""
        from torch.nn import functional as F

        return F.binary_cross_entropy_with_logits(outputs, labels.to(outputs))

    def plain_losses(self, outputs: "Tensor", labels: "Tensor") -> "Tensor":
        from torch.nn import functional as F

        return F.binary_cross_entropy_with_logits(outputs, labels.to(outputs), reduction="none").mean(1)

    def score_sum(self, outputs: "Tensor", labels: "Tensor") -> "Tensor":
        return ((outputs > 0) == (labels > 0.5)).float().mean(1).sum()

    def shares(self, labels: "Tensor", outputs: int) -> "Tensor":
        return labels.float()

    def class_weights(self, labels: "Tensor", outputs: int) -> "Tensor":
        """Return how many times more samples lack a label than have it."""
        positive = labels.sum(0)
        return (len(labels) - positive) / positive.clamp(min=1)

    def mean_weight(self, weights: "Tensor", labels: "Tensor") -> "Tensor":
        return weights.new_ones(())

    # Evaluation

    def measure(self, outputs: np.ndarray, truth: np.ndarray) -> Statistics:
        right = (outputs > 0) == (truth > 0.5)
        return {"label_accuracy": right.mean(1), "exact_match": right.all(1)}

    def summarize(self, statistics: Statistics) -> dict[str, float]:
        return {name: float(values.mean()) for name, values in statistics.items()}

    def score(self, outputs: np.ndarray, truth: np.ndarray) -> float:
        return float(((outputs > 0) == (truth > 0.5)).mean())

    def interval(self, outputs: np.ndarray, truth: np.ndarray) -> "Interval":
        from torchmill.components.metrics.intervals import share_interval

        return share_interval(((outputs > 0) == (truth > 0.5)).mean(1))

    def fit_temperature(self, outputs: np.ndarray, truth: np.ndarray) -> float:
        return 1.0

    def scores(
        self, outputs: "Tensor", labels: "Tensor", names: Sequence[str], spread: Sequence[float], temperature: float
    ) -> Scores:
        """Return the share of right labels, of samples with all right, F1 over all and per label, calibration."""
        from torchmill.components.metrics import calibration
        from torchmill.components.metrics.intervals import mean_interval, share_interval, wilson_interval
        from torchmill.components.metrics.plots import draw_labels
        from torchmill.components.metrics.ranking import rank
        from torchmill.components.metrics.scores import label_intervals, label_scores, with_intervals

        truth, answers = labels.numpy() > 0.5, outputs.numpy() > 0
        right = truth == answers
        by_label = label_scores(truth, answers)
        f1 = label_intervals(truth, answers)
        low, high = share_interval(right.mean(1))
        chances = outputs.double().sigmoid().numpy()
        ranking = rank(chances, truth)
        calibrated = [calibration.reliability(chance, yes) for chance, yes in zip(chances.T, truth.T, strict=True)]
        errors = [calibration.expected_calibration_error(bins) for bins in calibrated]
        exact = int(right.all(1).sum())
        classes = {name: with_intervals(score) for name, score in zip(names, by_label, strict=True)}
        for number, (entry, bins, error) in enumerate(zip(classes.values(), calibrated, errors, strict=True)):
            entry["ece"] = error
            entry["average_precision"] = ranking.average_precision.get(number) if ranking else None
            entry["reliability"] = [dataclasses.asdict(one) for one in bins]
        return Scores(
            score=float(right.mean()),
            low=low,
            high=high,
            others={
                "exact_match": exact / len(truth),
                **{name: value for name, (value, _) in f1.items()},
                "ece": sum(errors) / len(errors),
                **(ranking.areas() if ranking else {}),
            },
            loss=self.plain_loss(outputs, labels).item(),
            parts={
                "exact_match_95": list(wilson_interval(exact, len(truth))),
                **{f"{name}_95": list(ends) for name, (_, ends) in f1.items()},
                "loss_95": list(mean_interval(self.plain_losses(outputs, labels).double().numpy())),
                **(ranking.intervals() if ranking else {}),
                "classes": classes,
                "ranking": ranking.as_plain(names) if ranking else None,
            },
            pictures={"labels.png": lambda path: draw_labels(by_label, names, path)},
        )

    def wrong(self, outputs: np.ndarray, truth: np.ndarray) -> np.ndarray:
        return ((outputs > 0) != (truth > 0.5)).any(1)

    def worst_mistakes(
        self,
        outputs: np.ndarray,
        truth: np.ndarray,
        names: Sequence[str],
        spread: Sequence[float],
        temperature: float,
        most: int,
    ) -> list[Mistake]:
        from torchmill.components.metrics.scores import highest

        rows, labels = np.nonzero((outputs > 0) != (truth > 0.5))
        sure = 1 / (1 + np.exp(-np.abs(outputs[rows, labels].astype(np.float64))))
        mistakes = []
        for at in highest(np.arange(len(rows)), sure, most):
            row, label = int(rows[at]), int(labels[at])
            words = ("yes", "no") if truth[row, label] > 0.5 else ("no", "yes")
            mistakes.append(Mistake(row, label, *(f"{names[label]}: {word}" for word in words), float(sure[at])))
        return mistakes

    def pair(self, first: "Predictions", second: "Predictions") -> "Pairing":
        from torchmill.components.metrics.paired import (
            Difference,
            Pairing,
            difference_interval,
            difference_of_means,
            first_rows,
            mcnemar,
        )

        truth = first.truth > 0.5
        shares = [((one.outputs > 0) == truth).mean(1) for one in (first, second)]
        alls = [share == 1 for share in shares]
        discordant = mcnemar(alls[0], alls[1])
        exact = [float(right.mean()) for right in alls]
        return Pairing(
            samples=len(truth),
            differences=(
                difference_of_means("label accuracy", shares, more_is_better=True),
                Difference(
                    "all labels right", exact[0], exact[1], exact[1] - exact[0], difference_interval(discordant)
                ),
            ),
            mcnemar=discordant,
            only_first=first_rows(alls[0] & ~alls[1]),
            only_second=first_rows(alls[1] & ~alls[0]),
        )

    # Comparison of an export with its network

    def answers(self, outputs: np.ndarray) -> np.ndarray:
        return outputs > 0

    def differing(self, outputs: np.ndarray, reference: np.ndarray, allowed: float) -> np.ndarray:
        return np.any((outputs > 0) != (reference > 0), axis=1)

    def undecided(self, reference: np.ndarray, allowed: float) -> np.ndarray:
        return np.any(np.abs(reference) <= allowed, axis=1)

    # ONNX model

    def describe_output(self, outputs: int) -> str:
        return f"logits and probabilities, float32 (batch, {outputs}); labels, bool (batch, {outputs})"

    def exported(self, outputs: Sequence[str], description: str) -> bool:
        return "values" not in outputs and "above 0 is yes" in description

    def postprocessing(self, names: Sequence[str], temperature: float) -> "ModelProto":
        from torchmill.components.onnx_graph.answers import yes_and_no

        return yes_and_no(temperature).to_model_proto()

    def probabilities(self, outputs: np.ndarray, temperature: float) -> np.ndarray:
        logits = outputs.astype(np.float64) / temperature
        return 1 / (1 + np.exp(-logits.clip(-500, 500)))

    def labels(self, outputs: np.ndarray, names: Sequence[str]) -> np.ndarray:
        return outputs > 0

    # Predictions

    def confidence(self, answers: np.ndarray) -> np.ndarray:
        return np.maximum(answers, 1 - answers).min(1)

    def answer_words(self, answer: np.ndarray, names: Sequence[str]) -> str:
        return "|".join(names[number] for number in np.flatnonzero(answer > 0.5).tolist())
