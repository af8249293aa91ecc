"""Does an ONNX file give the answers of the network it came from?"""

import copy
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from torch import nn

from components.data.batches import LabelledImages
from components.device import processors
from components.errors import UserError
from components.evaluation.evaluate import predict
from components.export.to_onnx import INPUT, OUTPUT
from components.pixels import PixelClassifier
from components.refs import DataRef


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

    def as_dict(self) -> dict[str, object]:
        return {"passed": self.passed, **asdict(self)}


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
    ``tolerance`` times the largest logit (at least 1), or four times torch's own rounding where that is more.
    Answers may differ only where the judge's two best logits are nearer to each other than the allowed difference.
    """
    model = PixelClassifier(network.cpu(), data.mean, data.std).eval()
    single = predict(model, test, 256).double().numpy()
    judge = predict_double(model, test)
    truth, answers = test.labels.numpy(), judge.argmax(1)
    rounding = float(np.abs(single - judge).max())
    largest = float(np.abs(judge).max())
    allowed = max(tolerance * max(1.0, largest), 4 * rounding)
    best_two = np.sort(judge, axis=1)[:, -2:]
    undecided = best_two[:, 1] - best_two[:, 0] <= 2 * allowed if judge.shape[1] > 1 else np.ones(len(judge), bool)

    session = open_session(onnx_file)
    comparisons, complaints = [], []
    if not np.isfinite(single).all():  # nothing can be held against that
        complaints.append("the network itself gives logits that are not finite")
    for size in batch_sizes:
        try:
            logits = run(session, test.pixels.numpy(), size)
        except Exception as error:  # onnxruntime's errors have no base of their own
            complaints.append(f"batch size {size}: onnxruntime fails: {' '.join(str(error).split())}")
            comparisons.append(BatchComparison(size, math.inf, 0.0, 0.0))
            continue
        if logits.shape != judge.shape:
            complaints.append(f"batch size {size}: logits of shape {logits.shape} instead of {judge.shape}")
            comparisons.append(BatchComparison(size, math.inf, 0.0, 0.0))
            continue
        difference = np.abs(logits - judge)
        worst = float(np.nan_to_num(difference, nan=np.inf).max())
        other = logits.argmax(1) != answers
        comparisons.append(
            BatchComparison(size, worst, 1 - float(other.mean()), float((logits.argmax(1) == truth).mean()))
        )
        if worst > allowed:
            sample, logit = np.unravel_index(np.nan_to_num(difference, nan=np.inf).argmax(), difference.shape)
            complaints.append(
                f"batch size {size}: logit {logit} of test sample {sample} is {logits[sample, logit]:.6g} "
                f"instead of {judge[sample, logit]:.6g}; differs by {worst:.3g}, allowed is {allowed:.3g}"
            )
        if (other & ~undecided).any():
            complaints.append(f"batch size {size}: {int((other & ~undecided).sum())} of {len(truth)} answers differ")
    return Parity(
        samples=len(truth),
        torch_accuracy=float((single.argmax(1) == truth).mean()),
        onnx_accuracy=comparisons[0].accuracy,
        max_abs_diff=max(one.max_abs_diff for one in comparisons),
        agreement=min(one.agreement for one in comparisons),
        torch_float32_max_abs_diff=rounding,
        largest_logit=largest,
        allowed=allowed,
        distinct_answers=len(np.unique(answers)),
        by_batch_size=tuple(comparisons),
        complaints=tuple(complaints),
    )


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
    for pixels, _ in split.batches(256):
        yield model(pixels)


def open_session(onnx_file: Path) -> onnxruntime.InferenceSession:
    """Open an ONNX file on the CPU, on the processors this process may use."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = processors()  # its own guess is the machine's cores, whatever a container allows
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(str(onnx_file), options, providers=["CPUExecutionProvider"])


def run(session: onnxruntime.InferenceSession, pixels: np.ndarray, batch_size: int) -> np.ndarray:
    """Give the logits of all pixels, computed in batches of that size."""
    return np.concatenate(
        [session.run([OUTPUT], {INPUT: pixels[at : at + batch_size]})[0] for at in range(0, len(pixels), batch_size)]
    )
