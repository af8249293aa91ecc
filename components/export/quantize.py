"""Smaller versions of an ONNX model: int8 for CPUs, fp16 for GPUs. Only one that is good enough is kept."""

import logging
import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np
import onnx
import onnx_ir as ir
import torch

from torchmill.components.data.samples import Samples
from torchmill.components.evaluation.comparison.noninferiority import Comparison, compare, sample_scores, samples_needed
from torchmill.components.export.gates import Gate
from torchmill.components.export.tidy import tidied
from torchmill.components.files import temporary_folder
from torchmill.components.onnx_model.feed import fed
from torchmill.components.onnx_model.run import as_taken, run
from torchmill.components.onnx_model.session import CPU, open_session
from torchmill.components.refs import DataRef
from torchmill.components.tasks import shown_difference

if TYPE_CHECKING:
    import onnxruntime

Bits = Literal["int8", "fp16"]
Inputs = dict[str, np.ndarray]
"""Inputs of a model by name."""

CALIBRATION = 512
"""Number of training samples for the calibration of activation ranges."""
BATCHES = (1, 64)
"""Batch sizes at which the smaller model must be faster."""
SECONDS, ROUNDS = 0.15, 7
"""Duration of one time measurement, and the number of measurements, alternating between both models."""
SURE = 0.975
"""Level of the one-sided interval of the loss: the upper end of a two-sided 95 % interval."""
GPU = "CUDAExecutionProvider"


class Subject(Protocol):
    """The data that a smaller model is calibrated on and judged by."""

    @property
    def measure(self) -> str:
        """Main measure."""
        ...

    def calibration(self, core: "onnxruntime.InferenceSession") -> Iterable[Inputs]:
        """Return batches of training samples as a core takes them."""
        ...

    def compare(self, model: Path, smaller: Path) -> Comparison:
        """Compare the answers of both models to the test split."""
        ...

    def budget(self, comparison: Comparison, share: float) -> float:
        """Return the largest loss of the main measure that a setting allows."""
        ...

    def inputs(self, session: "onnxruntime.InferenceSession", samples: int) -> Inputs:
        """Return a batch of test samples as a model takes them."""
        ...


@dataclass(frozen=True)
class LabelSubject:
    """Samples with one input and labels."""

    data: DataRef
    training: Samples
    test: Samples

    @property
    def measure(self) -> str:
        return self.data.measure

    def calibration(self, core: "onnxruntime.InferenceSession") -> Iterable[Inputs]:
        return run(core, self.training, 32)[0]

    def compare(self, model: Path, smaller: Path) -> Comparison:
        outputs = (run(open_session(file), self.test, 64)[1] for file in (model, smaller))
        scores = [sample_scores(self.data.task, each, self.test.labels.numpy()) for each in outputs]
        return compare(scores[0], scores[1], SURE)

    def budget(self, comparison: Comparison, share: float) -> float:
        return share

    def inputs(self, session: "onnxruntime.InferenceSession", samples: int) -> Inputs:
        sizes = {taken.name: taken.shape for taken in session.get_inputs()}
        inputs, _ = self.test.take(torch.arange(samples) % len(self.test))
        return fed(as_taken(inputs), session.get_modelmeta().custom_metadata_map, sizes)


@dataclass(frozen=True)
class Smaller:
    """The verdict on a smaller model, and the measurements behind it."""

    accepted: bool
    reason: str
    loss: float | None = None
    """Loss of the task's measure, fp32 less the smaller model, on the same test samples."""
    loss_high: float | None = None
    """Upper end of its 95 % interval."""
    speed: tuple[float, ...] = ()
    """Median speed-up at each of ``BATCHES``; empty if it was not measured."""
    bytes: int | None = None
    bytes_before: int | None = None
    gates: tuple[Gate, ...] = ()
    """Findings of the checks of a published file."""

    def as_plain(self) -> dict[str, Any]:
        return asdict(self)


def quantize(
    bits: Bits,
    core: Path,
    model: Path,
    build: Callable[[ir.Model, Path], None],
    path: Path,
    subject: Subject,
    budget: float,
    check: Callable[[Path], Sequence[Gate]] = lambda _: (),
) -> Smaller:
    """Write a smaller model to ``path``, and keep it only if it loses at most ``budget`` and is faster.

    Only the network becomes smaller, neither its preparation nor what follows it. If onnxruntime has no GPU here, fp16
    is accepted without a measurement of its speed.

    Args:
        core: bare model, with a free batch.
        model: the same in the published form, to compare with.
        build: function that writes the published form of a bare model, and uses that up.
        budget: largest loss of accuracy, share of right labels or R²: upper end of the paired loss's 95 % interval.
        check: function that checks a written model before its speed is measured; one that fails a check is refused.
    """
    level = logging.getLogger().level
    logging.getLogger().setLevel(logging.ERROR)  # the quantizer recommends a preparation that changes nothing here
    try:
        with temporary_folder() as scratch:
            WRITERS[bits](core, subject, scratch / "core.onnx")
            build(tidied(ir.load(scratch / "core.onnx")), path)
            verdict = _judge(bits, model, path, subject, budget, check)
    except Exception as error:  # onnxruntime's tools can fail in any way on a graph
        verdict = Smaller(False, f"it cannot be made: {' '.join(str(error).split())[:300]}")
    finally:
        logging.getLogger().setLevel(level)
    if not verdict.accepted:
        path.unlink(missing_ok=True)
    return verdict


def _int8(core: Path, subject: Subject, path: Path) -> None:
    """Quantize statically, with activation ranges from calibration samples.

    Weights have a scale per output channel. They have 7 bits on CPUs without VNNI, where the sum of two 8-bit products
    would saturate.
    """
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

    batches = iter(subject.calibration(open_session(core)))

    class Reader(CalibrationDataReader):
        def get_next(self) -> Any:  # None ends the data, which onnxruntime's annotation leaves out
            return next(batches, None)

    quantize_static(
        core,
        path,
        Reader(),
        quant_format=QuantFormat.QDQ,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
        per_channel=True,
        reduce_range=not has_vnni(),
        op_types_to_quantize=["Conv", "Gemm", "MatMul"],
    )


def _fp16(core: Path, subject: Subject, path: Path) -> None:
    """Convert a network's weights and activations; its input and output keep their types."""
    from onnxruntime.transformers.float16 import convert_float_to_float16

    halved = convert_float_to_float16(onnx.load(core), keep_io_types=True)
    path.write_bytes(halved.SerializeToString(deterministic=True))


WRITERS: dict[Bits, Callable[[Path, Subject, Path], None]] = {"int8": _int8, "fp16": _fp16}


def _judge(
    bits: Bits,
    model: Path,
    path: Path,
    subject: Subject,
    share: float,
    check: Callable[[Path], Sequence[Gate]],
) -> Smaller:
    comparison = subject.compare(model, path)
    budget = subject.budget(comparison, share)
    sizes = {"bytes": path.stat().st_size, "bytes_before": model.stat().st_size}
    measured: dict[str, Any] = {"loss": comparison.advantage, "loss_high": comparison.advantage_high, **sizes}
    lost, most, allowed = (
        shown_difference(subject.measure, loss) for loss in (comparison.advantage, comparison.advantage_high, budget)
    )
    loss_text = f"it loses {lost} (up to {most})"
    if not comparison.advantage_high <= budget:
        needed = samples_needed(comparison, budget)
        enough = f"; about {needed:,} test samples like these could show that it does" if needed else ""
        return Smaller(False, f"{loss_text}; allowed is up to {allowed}{enough}", **measured)
    findings = tuple(check(path))
    measured["gates"] = findings
    if failed := [f"{gate.name}: {gate.evidence}" for gate in findings if not gate.passed]:
        return Smaller(False, f"it fails a check: {'; '.join(failed)}", **measured)
    if bits == "fp16":
        import onnxruntime

        if GPU not in onnxruntime.get_available_providers():
            return Smaller(True, f"{loss_text}; its speed can only be measured on a GPU", **measured)
    providers = (GPU, *CPU) if bits == "fp16" else CPU
    sessions = open_session(model, providers), open_session(path, providers)
    speeds = [_speed_up(*sessions, subject.inputs(sessions[0], size)) for size in BATCHES]
    return Smaller(min(speeds) > 1, f"{loss_text}; {_speed_text(speeds)}", speed=tuple(speeds), **measured)


def _speed_text(speeds: Sequence[float]) -> str:
    parts = (f"{speed:.2f} times as fast at batch size {size}" for speed, size in zip(speeds, BATCHES, strict=True))
    return ", ".join(parts)


def _speed_up(first: "onnxruntime.InferenceSession", second: "onnxruntime.InferenceSession", inputs: Inputs) -> float:
    """Return the median speed of the second session relative to the first, measured alternately."""

    def seconds(session: "onnxruntime.InferenceSession") -> float:
        began, count = time.perf_counter(), 0
        while time.perf_counter() - began < SECONDS:
            session.run(None, inputs)
            count += 1
        return (time.perf_counter() - began) / count

    for session in (first, second):
        session.run(None, inputs)
    return statistics.median(seconds(first) / seconds(second) for _ in range(ROUNDS))


def has_vnni() -> bool:
    """Return True if the CPU is known to add 8-bit products without saturation."""
    try:
        return "vnni" in Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return False
