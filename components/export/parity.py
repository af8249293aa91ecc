"""The comparison of an ONNX file with the network that it was exported from."""

import copy
import json
import math
from collections.abc import Mapping, Sequence
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
"""Number of test samples to compare at all batch sizes but the largest."""

COARSEST = 0.01  # largest useful tolerance, relative to the largest logit: anything would pass beyond it


@dataclass(frozen=True)
class BatchComparison:
    """Results of the ONNX model at one batch size, compared with torch in float64."""

    batch_size: int
    max_abs_diff: float
    agreement: float
    """Share of samples with the same answer."""
    score: float
    """Score of the ONNX model, by the measure of the task."""
    samples: int
    """Number of test samples, evenly spread over the split."""


@dataclass(frozen=True)
class Parity:
    """The comparison and its verdict."""

    samples: int
    torch_score: float
    """Accuracy, share of right labels, or R²."""
    onnx_score: float
    """The same measure of the ONNX model, over all samples."""
    score_difference: tuple[float, float, float] | None
    """Difference of accuracies, ONNX less torch, with its 95 % interval; None for other measures."""
    max_abs_diff: float
    """Largest over all batch sizes."""
    agreement: float
    """Smallest over all batch sizes."""
    torch_float32_max_abs_diff: float
    """Torch's own rounding: float32 against float64."""
    largest_logit: float
    allowed: float
    """Upper limit of ``max_abs_diff``."""
    distinct_answers: int
    """Number of different answers over the test split."""
    by_batch_size: tuple[BatchComparison, ...]
    complaints: tuple[str, ...]
    judge: "Judgement" = field(repr=False)

    @property
    def passed(self) -> bool:
        return not self.complaints

    def as_plain(self, **more: Any) -> dict[str, Any]:
        """Return the comparison for JSON."""
        values = {entry.name: getattr(self, entry.name) for entry in fields(self) if entry.name != "judge"}
        values["by_batch_size"] = [asdict(comparison) for comparison in self.by_batch_size]
        return {"passed": self.passed, **values, **more}


def as_json(entries: Mapping[str, Any]) -> str:
    """Return entries as JSON, in which an infinite difference is null."""
    return json.dumps(_finite(dict(entries)), indent=1, allow_nan=False)


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(entry) for key, entry in value.items()}
    if isinstance(value, tuple | list):
        return [_finite(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


@dataclass(frozen=True)
class Judgement:
    """The network's answers in float64: the reference for the ONNX model."""

    outputs: np.ndarray
    """Float64, (samples, outputs): logits of classes or labels, or values of targets."""
    truth: np.ndarray
    """Labels, in the units of the outputs."""
    task: str
    units: np.ndarray
    """Divisors of regression targets and their outputs: the targets' standard deviations."""
    allowed: float

    def answers(self, outputs: np.ndarray) -> np.ndarray:
        """Return a class for each sample, or a bool for each label; numbers are their own answer."""
        return self.task_object.answers(outputs)

    def differing(self, outputs: np.ndarray) -> np.ndarray:
        """Return True for samples with another answer, (samples,); numbers may differ by ``allowed``."""
        return self.task_object.differing(outputs, self.outputs, self.allowed)

    @property
    def undecided(self) -> np.ndarray:
        """True for samples whose answer an allowed difference may change, (samples,)."""
        return self.task_object.undecided(self.outputs, self.allowed)

    def part(self, indices: Tensor) -> "Judgement":
        """Return the judgement of a part of the samples."""
        chosen = indices.numpy()
        return replace(self, outputs=self.outputs[chosen], truth=self.truth[chosen])

    @property
    def task_object(self) -> tasks.LabelTask:
        """The task's own code."""
        return tasks.task(self.task)

    def measured(self, outputs: np.ndarray) -> np.ndarray:
        """Return the main measure of each sample, (samples,); bool if an answer is either right or wrong."""
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
    reference: "Reference | None" = None,
) -> Parity:
    """Run an ONNX file in onnxruntime over the test split, at each batch size, and compare it with torch.

    Torch in float64 is the judge: both float32 runs round, so neither is exact. The allowed difference is
    ``tolerance`` times the largest output (at least 1), or eight times torch's own rounding if that is more.
    An answer may differ only if the allowed difference could change the judge's own: its best two logits are close.
    A network is refused if its own rounding is too coarse for a comparison.

    Args:
        reference: the network's outputs, if they are there from another comparison.
    """
    single, judge = reference or refer(StandardizedModel.of(network.cpu(), data).eval(), data, test, tolerance)
    rounding = float(np.abs(single - judge.outputs).max())
    complaints = _own_faults(single, judge, rounding)
    session = open_session(onnx_file)
    # All samples at one size, at the others some: a large network would take minutes for each.
    largest = max(batch_sizes)
    some = torch.linspace(0, len(test) - 1, min(SOME, len(test))).long()
    results: dict[int, tuple[BatchComparison, np.ndarray | None]] = {}
    for size in batch_sizes:
        samples, part = (test, judge) if size == largest else (test.part(some), judge.part(some))
        results[size] = _compare_at(size, session, samples, part, complaints)
    comparisons = [comparison for comparison, _ in results.values()]
    whole, onnx_outputs = results[largest]
    return Parity(
        samples=len(test),
        torch_score=judge.score(single),
        onnx_score=whole.score,
        score_difference=_score_difference(judge, single, onnx_outputs),
        max_abs_diff=max(comparison.max_abs_diff for comparison in comparisons),
        agreement=min(comparison.agreement for comparison in comparisons),
        torch_float32_max_abs_diff=rounding,
        largest_logit=float(np.abs(judge.outputs).max()),
        allowed=judge.allowed,
        distinct_answers=len(np.unique(judge.answers(judge.outputs), axis=0)),
        by_batch_size=tuple(comparisons),
        complaints=tuple(complaints),
        judge=judge,
    )


Reference = tuple[np.ndarray, Judgement]
"""Outputs of a network in float32, and the judgement from those in float64."""


def refer(model: StandardizedModel, data: DataRef, test: Samples, tolerance: float) -> Reference:
    """Return torch's float32 outputs, (samples, outputs), and the judgement from its float64 outputs."""
    # Targets are compared in their deviations: their own units may differ by orders of magnitude.
    units = np.array([value or 1.0 for value in data.target_units] or [1.0])
    single = predict(model, test, JUDGE_BATCH).double().numpy() / units
    outputs = predict_double(model, test) / units
    rounding = float(np.abs(single - outputs).max())
    truth = test.labels.numpy() / units if data.target_units else test.labels.numpy()
    return single, Judgement(outputs, truth, data.task, units, max(tolerance * scale(outputs), 8 * rounding))


def scale(outputs: np.ndarray) -> float:
    """Return the unit of relative differences: the largest output, or 1."""
    return max(1.0, float(np.abs(outputs).max()))


def _own_faults(single: np.ndarray, judge: Judgement, rounding: float) -> list[str]:
    """Return the faults of the network itself that leave nothing to compare."""
    if not np.isfinite(single).all():
        return ["the network itself gives outputs that are not finite"]
    if 8 * rounding > COARSEST * scale(judge.outputs):
        return [f"the network itself differs by {rounding:.3g} between float32 and float64: nothing to compare"]
    return []


def _score_difference(
    judge: Judgement, single: np.ndarray, onnx_outputs: np.ndarray | None
) -> tuple[float, float, float] | None:
    if onnx_outputs is None or (right := judge.measured(onnx_outputs)).dtype != bool:
        return None
    pairing = mcnemar(judge.measured(single), right)
    return (pairing.only_second - pairing.only_first) / len(single), *difference_interval(pairing)


def _compare_at(
    size: int, session: "onnxruntime.InferenceSession", test: Samples, judge: Judgement, complaints: list[str]
) -> tuple[BatchComparison, np.ndarray | None]:
    """Compare at one batch size and add faults to ``complaints``; also return the outputs if their shape fits."""
    useless = BatchComparison(size, math.inf, 0.0, 0.0, len(test)), None
    try:
        outputs = run(session, test, size)[1] / judge.units
    except Exception as error:  # onnxruntime's errors share no base class
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
    differing = judge.differing(outputs)
    if (wrong := differing & ~judge.undecided).any():
        complaints.append(f"batch size {size}: {int(wrong.sum())} of {len(test)} answers differ")
    return BatchComparison(size, worst, 1 - float(differing.mean()), judge.score(outputs), len(test)), outputs


def predict_double(model: StandardizedModel, split: Samples) -> np.ndarray:
    """Return the outputs computed in float64.

    Raises:
        UserError: the network cannot run in float64, for example because it keeps float32 constants.
    """
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
