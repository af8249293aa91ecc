"""Does an ONNX file give the answers of the network it came from?"""

import copy
import json
import math
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from components.data.batches import LabelledImages
from components.device import processors
from components.errors import UserError
from components.evaluation.evaluate import predict
from components.export.to_onnx import INPUT, OUTPUT
from components.pixels import PixelClassifier
from components.refs import DataRef

if TYPE_CHECKING:
    import onnxruntime

JUDGE_BATCH = 64  # torch's convolutions in float64 are twice as fast as at 256: more stays in the cache
COARSEST = 0.01  # of the largest logit: an allowed difference beyond that would let anything pass


@dataclass(frozen=True)
class BatchComparison:
    """The ONNX model at one batch size against torch in float64, over the whole test split."""

    batch_size: int
    max_abs_diff: float
    agreement: float
    """Share of samples with the same answer."""
    accuracy: float
    """Of the ONNX model."""


@dataclass(frozen=True)
class Parity:
    """The comparison and its verdict."""

    samples: int
    torch_accuracy: float
    onnx_accuracy: float
    """At the first batch size."""
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
    """Classes that are answered at all."""
    by_batch_size: tuple[BatchComparison, ...]
    complaints: tuple[str, ...]

    @property
    def passed(self) -> bool:
        return not self.complaints

    def as_json(self) -> str:
        """The comparison as JSON, in which an infinite difference is null."""
        return json.dumps(_finite({"passed": self.passed, **asdict(self)}), indent=1, allow_nan=False)


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(one) for key, one in value.items()}
    if isinstance(value, tuple | list):
        return [_finite(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


@dataclass(frozen=True)
class Judgement:
    """What the network answers, by which the ONNX model is judged."""

    logits: np.ndarray
    """Float64, (samples, classes)."""
    truth: np.ndarray
    allowed: float

    @property
    def answers(self) -> np.ndarray:
        return self.logits.argmax(1)

    @property
    def undecided(self) -> np.ndarray:
        """Samples whose two best logits are so near that an allowed difference may turn the answer."""
        if self.logits.shape[1] < 2:
            return np.ones(len(self.logits), bool)
        best_two = np.sort(self.logits, axis=1)[:, -2:]
        return best_two[:, 1] - best_two[:, 0] <= 2 * self.allowed


def compare(
    onnx_file: Path,
    network: nn.Module,
    data: DataRef,
    test: LabelledImages,
    batch_sizes: Sequence[int],
    tolerance: float,
) -> Parity:
    """Run an ONNX file in onnxruntime over the test split, at each batch size, and hold it against torch.

    Torch in float64 is the judge: both float32 runs round, and neither is right where they differ. Allowed is
    ``tolerance`` times the largest logit (at least 1), or eight times torch's own rounding where that is more.
    Answers may differ only where the judge's two best logits are nearer to each other than the allowed difference.
    A network whose own rounding is so coarse that nothing can be told is refused, too.
    """
    model = PixelClassifier(network.cpu(), data.mean, data.std).eval()
    single = predict(model, test, JUDGE_BATCH).double().numpy()
    logits = predict_double(model, test)
    rounding = float(np.abs(single - logits).max())
    scale = max(1.0, float(np.abs(logits).max()))
    judge = Judgement(logits, test.labels.numpy(), max(tolerance * scale, 8 * rounding))
    complaints: list[str] = []
    if not np.isfinite(single).all():
        complaints.append("the network itself gives logits that are not finite")
    elif 8 * rounding > COARSEST * scale:
        complaints.append(
            f"the network itself differs by {rounding:.3g} between float32 and float64: nothing to compare"
        )
    session = open_session(onnx_file)
    comparisons = [_compare_at(size, session, test, judge, complaints) for size in batch_sizes]
    return Parity(
        samples=len(test),
        torch_accuracy=float((single.argmax(1) == judge.truth).mean()),
        onnx_accuracy=comparisons[0].accuracy,
        max_abs_diff=max(one.max_abs_diff for one in comparisons),
        agreement=min(one.agreement for one in comparisons),
        torch_float32_max_abs_diff=rounding,
        largest_logit=float(np.abs(logits).max()),
        allowed=judge.allowed,
        distinct_answers=len(np.unique(judge.answers)),
        by_batch_size=tuple(comparisons),
        complaints=tuple(complaints),
    )


def _compare_at(
    size: int, session: "onnxruntime.InferenceSession", test: LabelledImages, judge: Judgement, complaints: list[str]
) -> BatchComparison:
    """Compare at one batch size; what is wrong is added to ``complaints``."""
    useless = BatchComparison(size, math.inf, 0.0, 0.0)
    try:
        logits = run(session, test.pixels.numpy(), size)
    except Exception as error:  # onnxruntime's errors have no base of their own
        complaints.append(f"batch size {size}: onnxruntime fails: {' '.join(str(error).split())}")
        return useless
    if logits.shape != judge.logits.shape:
        complaints.append(f"batch size {size}: logits of shape {logits.shape} instead of {judge.logits.shape}")
        return useless
    difference = np.nan_to_num(np.abs(logits - judge.logits), nan=np.inf)
    worst = float(difference.max())
    if worst > judge.allowed:
        sample, logit = np.unravel_index(difference.argmax(), difference.shape)
        complaints.append(
            f"batch size {size}: logit {logit} of test sample {sample} is {logits[sample, logit]:.6g} "
            f"instead of {judge.logits[sample, logit]:.6g}; differs by {worst:.3g}, allowed is {judge.allowed:.3g}"
        )
    answers = logits.argmax(1)
    other = answers != judge.answers
    if (wrong := other & ~judge.undecided).any():
        complaints.append(f"batch size {size}: {int(wrong.sum())} of {len(test)} answers differ")
    return BatchComparison(size, worst, 1 - float(other.mean()), float((answers == judge.truth).mean()))


def predict_double(model: PixelClassifier, split: LabelledImages) -> np.ndarray:
    """Give the logits computed in float64."""
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
def _double_batches(model: nn.Module, split: LabelledImages):
    for pixels, _ in split.batches(JUDGE_BATCH):
        yield model(pixels)


def open_session(onnx_file: Path) -> "onnxruntime.InferenceSession":
    """Open an ONNX file on the CPU, on the processors this process may use."""
    # Importing it makes an identity of this machine in ~/.cache and reports to its vendor, unless told not to.
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = processors()  # its own guess is the machine's cores, whatever a container allows
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(str(onnx_file), options, providers=["CPUExecutionProvider"])


def run(session: "onnxruntime.InferenceSession", pixels: np.ndarray, batch_size: int) -> np.ndarray:
    """Give the logits of all pixels, computed in batches of that size."""
    return np.concatenate(
        [session.run([OUTPUT], {INPUT: pixels[at : at + batch_size]})[0] for at in range(0, len(pixels), batch_size)]
    )
