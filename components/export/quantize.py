"""An ONNX model in fewer bits, kept if it is as good: whole numbers of 8 on processors, halves of floats on GPUs."""

import logging
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import onnx
import torch

from torchmill.components.data.samples import Samples
from torchmill.components.evaluation.comparison.noninferiority import Comparison, compare, sample_scores
from torchmill.components.onnx_model import names
from torchmill.components.onnx_model.run import as_taken, run
from torchmill.components.onnx_model.session import CPU, open_session
from torchmill.components.refs import DataRef
from torchmill.components.tasks import shown_difference

if TYPE_CHECKING:
    import onnxruntime

Bits = Literal["int8", "fp16"]

CALIBRATION = 512
"""Training samples from which the ranges of activations are learned."""
BATCHES = (1, 64)
"""Sizes at which it has to be faster."""
SECONDS, ROUNDS = 0.15, 7
"""Of one measurement, and how many of each, in turns."""
SURE = 0.975
"""Of the one-sided interval of what is lost: the upper end of the two-sided one of 95 %."""
GPU = "CUDAExecutionProvider"


@dataclass(frozen=True)
class Smaller:
    """What became of it."""

    accepted: bool
    reason: str
    loss: float | None = None
    """Of the measure of the task, fp32 less its own, on the same test samples."""
    loss_high: float | None = None
    """Upper end of its 95 % interval."""
    speed: tuple[float, ...] = ()
    """How many times as fast, at each of ``BATCHES``: medians. None where there is nothing to measure it on."""
    bytes: int | None = None
    bytes_before: int | None = None

    def as_plain(self) -> dict[str, Any]:
        return asdict(self)


def quantize(
    bits: Bits, model: Path, data: DataRef, calibration: Samples, test: Samples, budget: float, path: Path
) -> Smaller:
    """Write ``path``, a model of fewer bits, and keep it only where it loses at most ``budget`` and is faster.

    Where onnxruntime has no GPU here, fp16 is taken without a measurement of its speed.

    Args:
        calibration: of training: the test split is what it is judged by.
        budget: of accuracy, share of right labels or R², as the upper end of the 95 % interval of the paired loss.
    """
    quiet = logging.getLogger().level
    logging.getLogger().setLevel(logging.ERROR)  # the quantiser advises of a preparation that changes nothing here
    try:
        MAKERS[bits](model, data, calibration, path)
        found = _judged(bits, model, path, data, test, budget)
    except Exception as error:  # onnxruntime's tools can fail in any way on a graph
        found = Smaller(False, f"it cannot be made: {' '.join(str(error).split())[:300]}")
    finally:
        logging.getLogger().setLevel(quiet)
    if not found.accepted:
        path.unlink(missing_ok=True)
    return found


def _int8(model: Path, data: DataRef, calibration: Samples, path: Path) -> None:
    """Static, with ranges of activations that are learned from calibration samples.

    Weights have a scale per output channel, and 7 bits on processors that would saturate in the sum of two products
    of 8 (those without VNNI).
    """
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            self.batches = ({data.field.onnx_input: as_taken(inputs)} for inputs, _ in calibration.batches(32))

        def get_next(self) -> Any:  # none behind the last, which its own annotation does not know
            return next(self.batches, None)

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


def _fp16(model: Path, data: DataRef, calibration: Samples, path: Path) -> None:
    """Weights and activations of the network; what is around it, and what it takes and gives, stays as it is."""
    from onnxruntime.transformers.float16 import convert_float_to_float16

    proto = onnx.load(model)
    around = [node.name for node in proto.graph.node if node.name.startswith(names.AROUND)]
    halved = convert_float_to_float16(proto, keep_io_types=True, node_block_list=around)
    path.write_bytes(halved.SerializeToString(deterministic=True))


MAKERS: dict[Bits, Callable[[Path, DataRef, Samples, Path], None]] = {"int8": _int8, "fp16": _fp16}


def _judged(bits: Bits, model: Path, path: Path, data: DataRef, test: Samples, budget: float) -> Smaller:
    sessions = open_session(model), open_session(path)
    scores = [sample_scores(data.task, run(session, test, 64)[1], test.labels.numpy()) for session in sessions]
    found: Comparison = compare(*scores, SURE)
    sizes = {"bytes": path.stat().st_size, "bytes_before": model.stat().st_size}
    known: dict[str, Any] = {"loss": found.advantage, "loss_high": found.advantage_high, **sizes}
    lost, most, allowed = (
        shown_difference(data.measure, loss) for loss in (found.advantage, found.advantage_high, budget)
    )
    told = f"it loses {lost} (up to {most})"
    if not found.advantage_high <= budget:
        return Smaller(False, f"{told}; allowed is up to {allowed}", **known)
    where = CPU
    if bits == "fp16":
        import onnxruntime

        if GPU not in onnxruntime.get_available_providers():
            return Smaller(True, f"{told}; how fast it is, only a GPU tells", **known)
        where = (GPU, *CPU)
        sessions = open_session(model, where), open_session(path, where)
    speeds = []
    for size in BATCHES:
        inputs, _ = test.take(torch.arange(size) % len(test))
        speeds.append(_times_as_fast(*sessions, {data.field.onnx_input: as_taken(inputs)}))
    return Smaller(min(speeds) > 1, f"{told}; {_fast(speeds)}", speed=tuple(speeds), **known)


def _fast(speeds: Sequence[float]) -> str:
    told = (f"{speed:.2f} times as fast at batch size {size}" for speed, size in zip(speeds, BATCHES, strict=True))
    return ", ".join(told)


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
