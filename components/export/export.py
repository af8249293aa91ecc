"""The export of a network: a model is published only if it is proven equal to the network."""

import logging
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from torch import nn

from torchmill.components.data.samples import Samples
from torchmill.components.errors import UserError
from torchmill.components.export.config import ExportConfig
from torchmill.components.export.first_divergence import first_divergence
from torchmill.components.export.gates import Candidate, gates
from torchmill.components.export.parity import Parity, compare
from torchmill.components.export.quantize import Bits, quantize
from torchmill.components.export.to_onnx import to_onnx
from torchmill.components.files import write_arrays, write_text
from torchmill.components.initialization.standardized_model import StandardizedModel
from torchmill.components.onnx_model.run import answers, as_taken, run
from torchmill.components.onnx_model.session import open_session
from torchmill.components.refs import DataRef, ExportRef, FileRef

logger = logging.getLogger("torchmill")

EXAMPLES = 8  # samples in the example file
SMALLER: dict[Bits, str] = {"int8": "model.int8.onnx", "fp16": "model.fp16.onnx"}


class ParityError(UserError):
    """The exported model does not give the network's answers."""


def export(
    network: nn.Module,
    data: DataRef,
    test: Samples,
    config: ExportConfig,
    metadata: Mapping[str, str],
    folder: Path,
    temperature: float = 1.0,
    calibration: Samples | None = None,
) -> ExportRef:
    """Write ``model.onnx``, ``parity.json`` and ``example.npz`` into ``folder``.

    A model that fails the comparison or a gate stays as ``model.rejected.onnx``; then there is no ``model.onnx``.

    Args:
        calibration: training samples for the int8 and fp16 models; None skips both.

    Raises:
        ParityError: the model fails the comparison or a gate, or a required smaller model is refused.
        UserError: the network cannot be exported.
    """
    candidate, final = folder / "model.rejected.onnx", folder / "model.onnx"
    for earlier in (final, *(folder / name for name in ("parity.json", "example.npz", *SMALLER.values()))):
        earlier.unlink(missing_ok=True)
    to_onnx(network, data, metadata, candidate, temperature)
    parity = compare(candidate, network, data, test, config.batch_sizes, config.tolerance)
    model = StandardizedModel.of(network.cpu(), data).eval()
    findings = _check(Candidate(onnx.load(candidate), model, data, test, parity.judge, temperature), parity, folder)
    if calibration is not None:
        _write_smaller(candidate, data, test, calibration, config, parity, findings, folder)
    candidate.replace(final)
    _write_example(final, data, test, folder / "example.npz")
    return ExportRef(
        onnx=FileRef.of(final),
        report=FileRef.of(folder / "parity.json"),
        max_abs_diff=parity.max_abs_diff,
        agreement=parity.agreement,
        example=FileRef.of(folder / "example.npz"),
        smaller=tuple(FileRef.of(path) for name in SMALLER.values() if (path := folder / name).exists()),
    )


def _check(candidate: Candidate, parity: Parity, folder: Path) -> list[dict[str, Any]]:
    """Write ``parity.json`` and return the findings of the gates.

    Raises:
        ParityError: the model differs from the network, or fails a gate.
    """
    if not parity.passed:
        layer = _divergence(candidate.proto, candidate.model, candidate.test)
        write_text(folder / "parity.json", parity.as_json(first_difference=layer))
        raise ParityError(
            f"The ONNX model differs from the network: {'; '.join(parity.complaints)}."
            + f" They part {layer}." * bool(layer),
            _remedy(folder),
        )
    results = gates(candidate)
    findings = [asdict(gate) for gate in results]
    failed = [f"{gate.name}: {gate.evidence}" for gate in results if not gate.passed]
    write_text(folder / "parity.json", parity.as_json(passed=not failed, gates=findings))
    if failed:
        raise ParityError(f"The ONNX model fails a check and is not published: {'; '.join(failed)}.", _remedy(folder))
    return findings


def _write_smaller(
    candidate: Path,
    data: DataRef,
    test: Samples,
    calibration: Samples,
    config: ExportConfig,
    parity: Parity,
    findings: list[dict[str, Any]],
    folder: Path,
) -> None:
    """Write the int8 and fp16 models that the config asks for, and add their results to ``parity.json``.

    Raises:
        ParityError: a model that is "on" is not accepted.
    """
    switches: dict[Bits, str] = {"int8": config.int8, "fp16": config.fp16}
    results, refused = {}, []
    for bits, switch in switches.items():
        if switch == "off":
            continue
        small = quantize(bits, candidate, data, calibration, test, config.budget, folder / SMALLER[bits])
        results[bits] = small.as_plain()
        logger.info("%s  %s: %s", bits, "accepted" if small.accepted else "fp32 stays", small.reason)
        if switch == "on" and not small.accepted:
            refused.append((bits, small.reason))
    if results:
        write_text(folder / "parity.json", parity.as_json(gates=findings, smaller=results))
    for bits, reason in refused:
        raise ParityError(f"There is no {bits} model: {reason}.", f"Set --export.{bits} auto to publish fp32 alone.")


def _write_example(model: Path, data: DataRef, test: Samples, path: Path) -> None:
    """Write a few test inputs and the model's outputs for them."""
    session = open_session(model)
    batches, _ = run(session, test.first(EXAMPLES), EXAMPLES)
    inputs = {data.field.onnx_input: batches[0]}
    names = [output.name for output in session.get_outputs()]
    outputs = zip(names, answers(session, names, **inputs), strict=True)
    write_arrays(path, {**inputs, **{name: _plain(values) for name, values in outputs}})


def _divergence(proto: onnx.ModelProto, model: StandardizedModel, test: Samples) -> str:
    """Return the first layer at which a model and its network differ; empty if the model doesn't run."""
    inputs, _ = test.first(2).take(torch.arange(min(2, len(test))))
    try:
        return first_divergence(proto, model, as_taken(inputs))
    except Exception:  # onnxruntime's errors share no base class; the comparison has reported them already
        return ""


def _remedy(folder: Path) -> str:
    return f"Nothing is published; see {folder / 'parity.json'} and model.rejected.onnx beside it."


def _plain(values: np.ndarray) -> np.ndarray:
    """Convert label names to fixed-width text, which numpy reads without unpickling."""
    return values.astype(str) if values.dtype == object else values
