"""Does an ONNX file give the answers of the network it came from?"""

import copy
import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from torchmill.components import tasks
from torchmill.components.data.samples import Samples
from torchmill.components.errors import UserError
from torchmill.components.evaluation.predictions import predict
from torchmill.components.initialization.standardized_model import StandardizedModel
from torchmill.components.metrics.paired import difference_interval, mcnemar
from torchmill.components.onnx_model.run import run
from torchmill.components.onnx_model.session import open_session
from torchmill.components.refs import DataRef

if TYPE_CHECKING:
    import onnxruntime

JUDGE_BATCH = 64  # torch's convolutions in float64 are twice as fast as at 256: more stays in the cache

SOME = 1000
"""Test samples that are compared at all batch sizes but the largest."""

COARSEST = 0.01  # of the largest logit: an allowed difference beyond that would let anything pass


@dataclass(frozen=True)
class BatchComparison:
    """The ONNX model at one batch size against torch in float64, over the whole test split."""

    batch_size: int
    max_abs_diff: float
    agreement: float
    """Share of samples with the same answer."""
    score: float
    """Of the ONNX model, by the measure of the task."""
    samples: int
    """Of the test split, evenly spread, where it is not all of it."""


@dataclass(frozen=True)
class Parity:
    """The comparison and its verdict."""

    samples: int
    torch_score: float
    """Accuracy, share of right labels, or R²."""
    onnx_score: float
    """Over all samples."""
    score_difference: tuple[float, float, float] | None
    """Of accuracies, ONNX less torch, with its 95 % interval; none for other measures."""
    max_abs_diff: float
    """Largest over all batch sizes."""
    agreement: float
    """Smallest over all batch sizes."""
    torch_float32_max_abs_diff: float
    """Torch's own rounding: float32 against float64."""
    largest_logit: float
    allowed: float
    """``max_abs_diff`` must not exceed it."""
    distinct_answers: int
    """Different answers that are given at all."""
    by_batch_size: tuple[BatchComparison, ...]
    complaints: tuple[str, ...]
    judge: "Judgement" = field(repr=False)

    @property
    def passed(self) -> bool:
        return not self.complaints

    def as_json(self, **more: Any) -> str:
        """The comparison as JSON, in which an infinite difference is null."""
        told = {one.name: getattr(self, one.name) for one in fields(self) if one.name != "judge"}
        told["by_batch_size"] = [asdict(one) for one in self.by_batch_size]
        return json.dumps(_finite({"passed": self.passed, **told, **more}), indent=1, allow_nan=False)


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(one) for key, one in value.items()}
    if isinstance(value, tuple | list):
        return [_finite(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


@dataclass(frozen=True)
class Judgement:
    """What the network answers, by which the ONNX model is judged."""

    outputs: np.ndarray
    """Float64, (samples, classes, labels or targets)."""
    truth: np.ndarray
    """Labels, in the units of the outputs."""
    task: str
    units: np.ndarray
    """What the targets of a regression, and the outputs for them, are divided by."""
    allowed: float

    def answers(self, outputs: np.ndarray) -> np.ndarray:
        """Return what outputs mean: a class, or yes and no for each label; numbers are their own answer."""
        return self.task_object.answers(outputs)

    def differing(self, outputs: np.ndarray) -> np.ndarray:
        """Return samples with another answer; bool, (samples,). Of numbers: those that differ by more than allowed."""
        return self.task_object.differing(outputs, self.outputs, self.allowed)

    @property
    def undecided(self) -> np.ndarray:
        """Samples so near to another answer that an allowed difference may turn theirs."""
        return self.task_object.undecided(self.outputs, self.allowed)

    def part(self, indices: Tensor) -> "Judgement":
        """Judge some samples alone."""
        chosen = indices.numpy()
        return replace(self, outputs=self.outputs[chosen], truth=self.truth[chosen])

    @property
    def task_object(self) -> tasks.Task:
        """Everything that depends on the task."""
        return tasks.task(self.task)

    def measured(self, outputs: np.ndarray) -> np.ndarray:
        """Return the main measure of each sample, (samples,); bool if answers are right or wrong."""
        return self.task_object.measure(outputs, self.truth)[self.task_object.main_measure]

    def score(self, outputs: np.ndarray) -> float:
        """Return accuracy, share of right labels or R² of outputs."""
        return self.task_object.score(outputs, self.truth)


def compare(
    onnx_file: Path,
    network: nn.Module,
    data: DataRef,
    test: Samples,
    batch_sizes: Sequence[int],
    tolerance: float,
) -> Parity:
    """Run an ONNX file in onnxruntime over the test split, at each batch size, and hold it against torch.

    Torch in float64 is the judge: both float32 runs round, and neither is right where they differ. Allowed is
    ``tolerance`` times the largest output (at least 1), or eight times torch's own rounding where that is more.
    Answers may differ only where the allowed difference may turn the judge's own: its two best logits are so near.
    A network whose own rounding is so coarse that nothing can be told is refused, too.
    """
    model = StandardizedModel.of(network.cpu(), data).eval()
    # Targets are compared in their deviations: their own units may differ by orders of magnitude.
    units = np.array([value or 1.0 for value in data.target_std] or [1.0])
    single = predict(model, test, JUDGE_BATCH).double().numpy() / units
    outputs = predict_double(model, test) / units
    rounding = float(np.abs(single - outputs).max())
    scale = max(1.0, float(np.abs(outputs).max()))
    truth = test.labels.numpy() / units if data.target_std else test.labels.numpy()
    judge = Judgement(outputs, truth, data.task, units, max(tolerance * scale, 8 * rounding))
    complaints: list[str] = []
    if not np.isfinite(single).all():
        complaints.append("the network itself gives outputs that are not finite")
    elif 8 * rounding > COARSEST * scale:
        complaints.append(
            f"the network itself differs by {rounding:.3g} between float32 and float64: nothing to compare"
        )
    session = open_session(onnx_file)
    # All samples at one size, at the others some: a large network would take minutes for each.
    largest = max(batch_sizes)
    some = torch.linspace(0, len(test) - 1, min(SOME, len(test))).long()
    given: dict[int, tuple[BatchComparison, np.ndarray | None]] = {}
    for size in batch_sizes:
        samples, its = (test, judge) if size == largest else (test.part(some), judge.part(some))
        given[size] = _compare_at(size, session, samples, its, complaints)
    comparisons = [comparison for comparison, _ in given.values()]
    whole, outputs_of_all = given[largest]
    difference = None
    if outputs_of_all is not None and (right := judge.measured(outputs_of_all)).dtype == bool:
        found = mcnemar(judge.measured(single), right)
        difference = (found.only_second - found.only_first) / len(test), *difference_interval(found)
    return Parity(
        samples=len(test),
        torch_score=judge.score(single),
        onnx_score=whole.score,
        score_difference=difference,
        max_abs_diff=max(one.max_abs_diff for one in comparisons),
        agreement=min(one.agreement for one in comparisons),
        torch_float32_max_abs_diff=rounding,
        largest_logit=float(np.abs(outputs).max()),
        allowed=judge.allowed,
        distinct_answers=len(np.unique(judge.answers(outputs), axis=0)),
        by_batch_size=tuple(comparisons),
        complaints=tuple(complaints),
        judge=judge,
    )


def _compare_at(
    size: int, session: "onnxruntime.InferenceSession", test: Samples, judge: Judgement, complaints: list[str]
) -> tuple[BatchComparison, np.ndarray | None]:
    """Compare at one batch size; what is wrong is added to ``complaints``. Gives the outputs, too, if they fit."""
    useless = BatchComparison(size, math.inf, 0.0, 0.0, len(test)), None
    try:
        outputs = run(session, test, size)[1] / judge.units
    except Exception as error:  # onnxruntime's errors have no base of their own
        complaints.append(f"batch size {size}: onnxruntime fails: {' '.join(str(error).split())}")
        return useless
    if outputs.shape != judge.outputs.shape:
        complaints.append(f"batch size {size}: outputs of shape {outputs.shape} instead of {judge.outputs.shape}")
        return useless
    difference = np.nan_to_num(np.abs(outputs - judge.outputs), nan=np.inf)
    worst = float(difference.max())
    if worst > judge.allowed:
        sample, output = np.unravel_index(difference.argmax(), difference.shape)
        complaints.append(
            f"batch size {size}: output {output} of test sample {sample} is {outputs[sample, output]:.6g} "
            f"instead of {judge.outputs[sample, output]:.6g}; differs by {worst:.3g}, allowed is {judge.allowed:.3g}"
        )
    other = judge.differing(outputs)
    if (wrong := other & ~judge.undecided).any():
        complaints.append(f"batch size {size}: {int(wrong.sum())} of {len(test)} answers differ")
    return BatchComparison(size, worst, 1 - float(other.mean()), judge.score(outputs), len(test)), outputs


def predict_double(model: StandardizedModel, split: Samples) -> np.ndarray:
    """Give the outputs computed in float64."""
    # Where a network keeps float32 constants of its own, this raises a dtype error, told in words.
    try:
        return torch.cat(list(_double_batches(copy.deepcopy(model).double(), split))).numpy()
    except RuntimeError as error:
        raise UserError(
            f"{type(model.network).__name__} cannot be run in float64, which judges its export: "
            f"{' '.join(str(error).split())}",
            "Keep its constants as buffers (register_buffer) and make tensors in the dtype of the input.",
        ) from error


@torch.no_grad()
def _double_batches(model: nn.Module, split: Samples):
    for inputs, _ in split.batches(JUDGE_BATCH):
        yield model(inputs.double() if inputs.is_floating_point() else inputs)
