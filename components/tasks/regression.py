"""Numbers, in units of their own."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from torchmill.components.batches.field_refs import FieldRef
from torchmill.components.errors import UserError
from torchmill.components.tasks import Labels, Mistake, Scores, Statistics
from torchmill.components.tasks._label_field import label_field, outputs_for

if TYPE_CHECKING:
    from torch import Tensor, nn

    from torchmill.components.batches.batch import Batch
    from torchmill.components.metrics.intervals import Interval
    from torchmill.components.metrics.paired import Pairing
    from torchmill.components.metrics.predictions import Predictions

POINTS = 1000
"""Residuals in the report, at most."""
FEW = 20
"""Different whole numbers, given as fractions, that may be meant as classes."""


MOST_TARGETS = 64
"""Largest number of targets with an R² each; more are taken as values of one."""


class Regression:
    """Loss: squared error of standardized targets, which may have any shape. The network gives values of that shape.

    Networks answer in units of the targets' deviation, from their mean; both are of the training split.

    Measures: ``r2`` (the main one), the explained variance, mean over targets; ``mae`` and ``rmse``, in the target's
    units, over all targets.
    """

    main_measure = "r2"

    def __init__(self, fields: Mapping[str, FieldRef]):
        remedy = "Return {…, 'target': numbers, (N,) or of any shape (N, …)}."
        self.target = label_field(fields, self.fits, "Regression", remedy)
        self.shape = self.target.shape
        self.outputs = math.prod(self.shape)
        sides = [1] * (len(self.shape) - 1)
        self.mean = np.reshape(self.target.mean, (-1, *sides)).tolist()
        self.std = np.reshape([value or 1.0 for value in self.target.std], (-1, *sides)).tolist()

    @staticmethod
    def fits(target: FieldRef) -> str:
        return "is a number" if target.kind == "values" and not target.season else ""

    def loss(self, network: "nn.Module", batch: "Batch") -> "Tensor":
        outputs = self._outputs(network, batch)
        return (outputs - self._standardized(batch[self.target.name])).square().mean()

    def predict(self, network: "nn.Module", inputs: "Batch") -> "dict[str, Tensor]":
        """Return ``values`` in the targets' own units, of their shape."""
        outputs = self._outputs(network, inputs)
        return {"values": outputs * outputs.new_tensor(self.std) + outputs.new_tensor(self.mean)}

    def measure(self, answer: "Mapping[str, Tensor]", batch: "Batch") -> "dict[str, Tensor]":
        truth = batch[self.target.name].double()
        truth = truth.reshape(len(truth), *self._broadcast)
        errors = answer["values"].double() - truth
        scaled, truth = (errors / errors.new_tensor(self.std)).flatten(1), self._standardized(truth).flatten(1)
        values = {"squares": scaled.square(), "truth": truth, "truth_squares": truth.square()}
        if self.outputs > MOST_TARGETS:
            values = {name: value.mean(1, keepdim=True) for name, value in values.items()}
        return {**values, "error": errors.flatten(1).abs().mean(1), "error_squares": errors.flatten(1).square().mean(1)}

    def summarize(self, means: "Mapping[str, Tensor]") -> "dict[str, Tensor]":
        variance = means["truth_squares"] - means["truth"].square()
        r2 = 1 - means["squares"] / variance.clamp(min=1e-12)
        return {"r2": r2.mean(), "mae": means["error"], "rmse": means["error_squares"].sqrt()}

    @property
    def _broadcast(self) -> tuple[int, ...]:
        return self.shape or (1,)

    def _standardized(self, truth: "Tensor") -> "Tensor":
        truth = truth.reshape(len(truth), *self._broadcast)
        return (truth - truth.new_tensor(self.mean)) / truth.new_tensor(self.std)

    def _outputs(self, network: "nn.Module", batch: "Batch") -> "Tensor":
        if len(self.shape) < 2:
            return outputs_for(network, batch, self.outputs, "a number for each target")
        from torchmill.components.batches.outputs import main_output

        outputs = main_output(network(batch), "values")
        if outputs.shape[1:] != self.shape:
            raise UserError(
                f"The network gives {tuple(outputs.shape)}; expected values (N, {', '.join(map(str, self.shape))}).",
                "Its answers have the shape of the target.",
            )
        return outputs


class LabelRegression:
    name = "regression"
    singular, plural = "target", "targets"
    output_words = "a number for each target"
    mistakes_title = "Largest errors"
    mistakes_note = "Farthest from the truth, by the targets’ deviation."
    main_measure, is_share = "r2", False

    loss_words, activation = "squared error", "identity"
    counts_right = False
    is_exclusive = False
    has_temperature = False

    onnx_output, has_probabilities = "values", False

    def describe_data(self, outputs: str) -> str:
        return f", regression of {outputs}"

    # Labels

    def recognizes(self, labels: np.ndarray) -> bool:
        return labels.ndim <= 2 and labels.dtype.kind == "f"

    def doubts(self, labels: np.ndarray) -> str:
        if labels.ndim == 1 and np.isfinite(labels).all() and (labels == np.floor(labels)).all():
            different = len(np.unique(labels))
            if 1 < different <= min(FEW, len(labels) / 2):
                return (
                    f"labels are {different} different whole numbers, and taken as targets of a regression, since they "
                    f"are {labels.dtype}. Where they are classes, make them int64, or say "
                    '"task": "classification" beside "train".'
                )
        return ""

    def read_labels(self, labels: Labels, place: str, names: tuple[str, ...]) -> tuple[Labels, tuple[str, ...]]:
        from torchmill.components.encoding.class_names import width_of

        width = width_of(labels, place, names)
        values = {}
        for split, array in labels.items():
            if array.dtype.kind not in "biuf":
                raise UserError(
                    f"{place}: labels of {split} are texts, and no targets of a regression.", "Give numbers."
                )
            values[split] = array.reshape(len(array), -1).astype(np.float32)
            if wrong := np.flatnonzero(~np.isfinite(values[split]).all(1)).tolist():
                raise UserError(
                    f"{place}: {len(wrong):,} targets of {split} are no finite numbers; the first is number {wrong[0]}."
                )
        for number in np.flatnonzero(values["train"].std(0) == 0).tolist():
            raise UserError(
                f"{place}: target {number} is {values['train'][0, number]:g} in all of train.", "Nothing to learn."
            )
        plain = ("target",) if width == 1 else tuple(f"target {number}" for number in range(width))
        return values, names or plain

    def faults(self, labels: np.ndarray, samples: int, outputs: int) -> list[str]:
        if labels.dtype != np.float32 or labels.shape != (samples, outputs):
            return [f"labels are {labels.dtype} {labels.shape}, not float32 ({samples}, {outputs})"]
        if not np.isfinite(labels).all():
            return ["targets are not all finite"]
        return []

    def statistics(self, labels: np.ndarray) -> tuple[tuple[float, ...], tuple[float, ...]]:
        return tuple(map(float, labels.mean(0, np.float64))), tuple(map(float, labels.std(0, np.float64)))

    def trained_on(self, labels: np.ndarray, statistics: tuple[Sequence[float], Sequence[float]] | None) -> np.ndarray:
        labels = labels.astype(np.float32)
        if statistics is None:
            return labels
        mean, std = statistics
        return ((labels - np.array(mean)) / np.array([value or 1.0 for value in std])).astype(np.float32)

    def counts(self, labels: np.ndarray, outputs: int) -> None:
        return None

    # Training

    def plain_loss(self, outputs: "Tensor", labels: "Tensor") -> "Tensor":
        """Return the mean squared error of standardised targets."""
        from torch.nn import functional as F

        return F.mse_loss(outputs, labels)

    def plain_losses(self, outputs: "Tensor", labels: "Tensor") -> "Tensor":
        from torch.nn import functional as F

        return F.mse_loss(outputs, labels, reduction="none").mean(1)

    def score_sum(self, outputs: "Tensor", labels: "Tensor") -> "Tensor":
        return (1 - (outputs - labels).square().mean(1)).sum()

    def shares(self, labels: "Tensor", outputs: int) -> "Tensor":
        return labels.float()

    def class_weights(self, labels: "Tensor", outputs: int) -> "Tensor":
        return labels.new_ones(outputs)

    def mean_weight(self, weights: "Tensor", labels: "Tensor") -> "Tensor":
        return weights.new_ones(())

    # Evaluation

    def measure(self, outputs: np.ndarray, truth: np.ndarray) -> Statistics:
        """Return 1 - e²/v, with the error e and the variance v over all samples, averaged over the targets."""
        values = truth.astype(np.float64)
        variance = values.var(0)
        squares = (outputs.astype(np.float64) - values) ** 2
        return {"r2": np.where(variance > 0, 1 - squares / np.where(variance > 0, variance, 1), 0.0).mean(1)}

    def summarize(self, statistics: Statistics) -> dict[str, float]:
        return {name: float(values.mean()) for name, values in statistics.items()}

    def score(self, outputs: np.ndarray, truth: np.ndarray) -> float:
        from torchmill.components.metrics.scores import target_scores

        by_target = target_scores(truth, outputs)
        return sum(one.r2 for one in by_target) / len(by_target)

    def interval(self, outputs: np.ndarray, truth: np.ndarray) -> "Interval":
        from torchmill.components.metrics.scores import mean_r2_interval

        return mean_r2_interval(truth, outputs)

    def fit_temperature(self, outputs: np.ndarray, truth: np.ndarray) -> float:
        return 1.0

    def scores(
        self, outputs: "Tensor", labels: "Tensor", names: Sequence[str], spread: Sequence[float], temperature: float
    ) -> Scores:
        """Return the explained variance (mean over targets) and the errors of each target in its own unit."""
        from torchmill.components.metrics.intervals import mean_interval
        from torchmill.components.metrics.plots import draw_targets
        from torchmill.components.metrics.scores import target_intervals, target_scores

        truth, answers = labels.numpy(), outputs.numpy()
        by_target = target_scores(truth, answers)
        low, high = self.interval(answers, truth)
        units = outputs.new_tensor([value or 1.0 for value in spread])
        shown = np.sort(np.random.default_rng(0).permutation(len(truth))[:POINTS])
        targets = {}
        rows = zip(names, by_target, target_intervals(truth, answers), strict=True)
        for number, (name, score, ends) in enumerate(rows):
            targets[name] = dataclasses.asdict(score) | {f"{error}_95": list(pair) for error, pair in ends.items()}
            targets[name]["residuals"] = {
                "truth": _rounded(truth[shown, number]),
                "answer": _rounded(answers[shown, number]),
            }
        return Scores(
            score=sum(score.r2 for score in by_target) / len(by_target),
            low=low,
            high=high,
            others={"mae": by_target[0].mae, "rmse": by_target[0].rmse} if len(by_target) == 1 else {},
            loss=self.plain_loss(outputs / units, labels / units).item(),
            parts={
                "loss_95": list(mean_interval(self.plain_losses(outputs / units, labels / units).double().numpy())),
                "targets": targets,
            },
            pictures={"targets.png": lambda path: draw_targets(truth, answers, names, path)},
        )

    def wrong(self, outputs: np.ndarray, truth: np.ndarray) -> None:
        return None

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

        apart = np.abs(outputs.astype(np.float64) - truth) / np.array([value or 1.0 for value in spread])
        target = apart.argmax(1)
        mistakes = []
        for row in highest(np.arange(len(apart)), apart.max(1), most):
            at = int(target[row])
            name = f"{names[at]} " * (len(names) > 1)
            values = truth[row, at], outputs[row, at]
            mistakes.append(Mistake(row, at, *(f"{name}{value:.5g}" for value in values), None))
        return mistakes

    def pair(self, first: "Predictions", second: "Predictions") -> "Pairing":
        from torchmill.components.metrics.paired import MOST_SHOWN, Pairing, difference_of_means

        truth = first.truth.astype(np.float64)
        spread = np.where(truth.std(0) > 0, truth.std(0), 1.0)
        errors = [np.abs(one.outputs - truth) / spread for one in (first, second)]
        better = errors[1].mean(1) - errors[0].mean(1)
        order = np.argsort(better, kind="stable")
        return Pairing(
            samples=len(truth),
            differences=(
                difference_of_means("absolute error, in deviations", [error.mean(1) for error in errors]),
                difference_of_means("squared error, in deviations", [(error**2).mean(1) for error in errors]),
            ),
            mcnemar=None,
            only_first=tuple(order[::-1][:MOST_SHOWN].tolist()),
            only_second=tuple(order[:MOST_SHOWN].tolist()),
        )

    # Comparison of an export with its network

    def answers(self, outputs: np.ndarray) -> np.ndarray:
        return outputs

    def differing(self, outputs: np.ndarray, reference: np.ndarray, allowed: float) -> np.ndarray:
        return np.any(np.abs(outputs - reference) > allowed, axis=1)

    def undecided(self, reference: np.ndarray, allowed: float) -> np.ndarray:
        return np.zeros(len(reference), bool)

    # ONNX model

    def describe_output(self, outputs: int) -> str:
        return f"values, float32 (batch, {outputs}) in the targets' own units"

    def exported(self, outputs: Sequence[str], description: str) -> bool:
        return "values" in outputs

    def postprocessing(self, names: Sequence[str], temperature: float) -> None:
        return None

    def probabilities(self, outputs: np.ndarray, temperature: float) -> np.ndarray:
        return outputs

    def labels(self, outputs: np.ndarray, names: Sequence[str]) -> np.ndarray:
        return outputs

    # Predictions

    def confidence(self, answers: np.ndarray) -> np.ndarray:
        return np.empty(0)

    def answer_words(self, answer: np.ndarray, names: Sequence[str]) -> None:
        return None


def _rounded(values: np.ndarray) -> list[float]:
    return [float(f"{value:.5g}") for value in values.tolist()]
