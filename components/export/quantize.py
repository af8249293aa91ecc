"""An ONNX model in whole numbers of 8 bits, if it is as good and faster."""

import logging
import statistics
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from components.data.batches import Samples
from components.evaluation.promotion import Comparison, compare, sample_scores
from components.export.bundle import INPUTS
from components.export.parity import as_taken, open_session, run
from components.refs import DataRef

if TYPE_CHECKING:
    import onnxruntime

CALIBRATION = 512
"""Training samples from which the ranges of activations are learned."""
BATCHES = (1, 64)
"""Sizes at which it has to be faster."""
SECONDS, ROUNDS = 0.15, 7
"""Of one measurement, and how many of each, in turns."""
SURE = 0.975
"""Of the one-sided interval of what is lost: the upper end of the two-sided one of 95 %."""


@dataclass(frozen=True)
class Quantised:
    """What became of it."""

    accepted: bool
    reason: str
    loss: float | None = None
    """Of the measure of the task, fp32 less int8, on the same test samples."""
    loss_high: float | None = None
    """Upper end of its 95 % interval."""
    speed: tuple[float, ...] = ()
    """How many times as fast, at each of ``BATCHES``: medians."""
    bytes: int | None = None

    def as_plain(self) -> dict[str, Any]:
        return asdict(self)


def quantize(model: Path, data: DataRef, calibration: Samples, test: Samples, budget: float, path: Path) -> Quantised:
    """Write ``path``, a model of int8, and keep it only where it loses at most ``budget`` and is faster.

    Static, with ranges of activations that are learned from calibration samples; weights have a scale per output
    channel, and 7 bits on processors that would saturate in the sum of two products of 8 (those without VNNI).

    Args:
        calibration: of training: the test split is what it is judged by.
        budget: of accuracy, share of right labels or R², as the upper end of the 95 % interval of the paired loss.
    """
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            self.batches = ({INPUTS[data.kind]: as_taken(inputs)} for inputs, _ in calibration.batches(32))

        def get_next(self) -> Any:  # none behind the last, which its own annotation does not know
            return next(self.batches, None)

    quiet = logging.getLogger().level
    logging.getLogger().setLevel(logging.ERROR)  # it advises of a preparation that changes nothing here
    try:
        quantize_static(
            model,
            path,
            Reader(),
            quant_format=QuantFormat.QDQ,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            per_channel=True,
            reduce_range=not has_vnni(),
            op_types_to_quantize=["Conv", "Gemm", "MatMul"],
        )
        found = _judged(model, path, data, test, budget)
    except Exception as error:  # onnxruntime's quantiser can fail in any way on a graph
        found = Quantised(False, f"it cannot be made: {' '.join(str(error).split())[:300]}")
    finally:
        logging.getLogger().setLevel(quiet)
    if not found.accepted:
        path.unlink(missing_ok=True)
    return found


def _judged(model: Path, path: Path, data: DataRef, test: Samples, budget: float) -> Quantised:
    sessions = open_session(model), open_session(path)
    scores = [sample_scores(data.task, run(session, test, 64)[1], test.labels.numpy()) for session in sessions]
    found: Comparison = compare(*scores, SURE)
    known: dict[str, Any] = {"loss": found.advantage, "loss_high": found.advantage_high, "bytes": path.stat().st_size}
    told = f"it loses {found.advantage:.2%} (up to {found.advantage_high:.2%})"
    if found.advantage_high > budget:
        return Quantised(False, f"{told}; allowed is up to {budget:.2%}", **known)
    speeds = []
    for size in BATCHES:
        inputs, _ = test.take(torch.arange(size) % len(test))
        speeds.append(_times_as_fast(*sessions, {INPUTS[data.kind]: as_taken(inputs)}))
    fast = [f"{speed:.2f} times as fast at batch size {size}" for speed, size in zip(speeds, BATCHES, strict=True)]
    return Quantised(min(speeds) > 1, f"{told}; {', '.join(fast)}", speed=tuple(speeds), **known)


def _times_as_fast(
    first: "onnxruntime.InferenceSession", second: "onnxruntime.InferenceSession", given: dict[str, np.ndarray]
) -> float:
    """Give the median of how many times as fast the second is, measured in turns."""

    def seconds(session: "onnxruntime.InferenceSession") -> float:
        began, count = time.perf_counter(), 0
        while time.perf_counter() - began < SECONDS:
            session.run(None, given)
            count += 1
        return (time.perf_counter() - began) / count

    for session in (first, second):
        session.run(None, given)
    return statistics.median(seconds(first) / seconds(second) for _ in range(ROUNDS))


def has_vnni() -> bool:
    """Tell whether the processor adds products of 8 bits without saturating; False where nobody knows."""
    try:
        return "vnni" in Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return False
