"""Export a network and publish nothing that was not found equal to it."""

import logging
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

import numpy as np
import onnx
import torch
from torch import nn

from torchmill.components.data.samples import Samples
from torchmill.components.errors import UserError
from torchmill.components.export.config import ExportConfig
from torchmill.components.export.first_divergence import first_divergence
from torchmill.components.export.gates import Candidate, gates
from torchmill.components.export.parity import compare
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

    A model that fails the comparison or a gate is called ``model.rejected.onnx``, and there is no ``model.onnx``.

    Raises:
        ParityError: it differs from the network, or proves nothing; says how.
        UserError: the network cannot be exported.
    """
    candidate, final = folder / "model.rejected.onnx", folder / "model.onnx"
    for earlier in (final, *(folder / name for name in ("parity.json", "example.npz", *SMALLER.values()))):
        earlier.unlink(missing_ok=True)
    to_onnx(network, data, metadata, candidate, temperature)
    parity = compare(candidate, network, data, test, config.batch_sizes, config.tolerance)
    model, proto = StandardizedModel.of(network.cpu(), data).eval(), onnx.load(candidate)
    if parity.passed:
        looked = gates(Candidate(proto, model, data, test, parity.judge, temperature))
        told = [asdict(gate) for gate in looked]
        failed = [f"{gate.name}: {gate.evidence}" for gate in looked if not gate.passed]
        write_text(folder / "parity.json", parity.as_json(passed=not failed, gates=told))
        if failed:
            raise ParityError(f"The ONNX model is not to be published: {'; '.join(failed)}.", _where(folder))
    else:
        where = parting(proto, model, test)
        write_text(folder / "parity.json", parity.as_json(first_difference=where))
        raise ParityError(
            f"The ONNX model differs from the network: {'; '.join(parity.complaints)}."
            + f" They part {where}." * bool(where),
            _where(folder),
        )
    wanted: dict[Bits, str] = {"int8": config.int8, "fp16": config.fp16}
    made, refused = {}, []
    for bits, how in wanted.items():
        if how == "off" or calibration is None:
            continue
        small = quantize(bits, candidate, data, calibration, test, config.budget, folder / SMALLER[bits])
        made[bits] = small.as_plain()
        logger.info("%s  %s: %s", bits, "accepted" if small.accepted else "fp32 stays", small.reason)
        if how == "on" and not small.accepted:
            refused.append((bits, small.reason))
    if made:
        write_text(folder / "parity.json", parity.as_json(gates=told, smaller=made))
    for bits, reason in refused:
        raise ParityError(f"There is no {bits} model: {reason}.", f"With --export.{bits} auto fp32 stays.")
    candidate.replace(final)
    session = open_session(final)
    inputs, _ = run(session, test.first(EXAMPLES), EXAMPLES)
    names = [output.name for output in session.get_outputs()]
    given = dict(zip(names, answers(session, names, **{data.field.onnx_input: inputs[0]}), strict=True))
    named = {data.field.onnx_input: inputs[0], **{name: _plain(values) for name, values in given.items()}}
    write_arrays(folder / "example.npz", named)
    return ExportRef(
        onnx=FileRef.of(final),
        report=FileRef.of(folder / "parity.json"),
        max_abs_diff=parity.max_abs_diff,
        agreement=parity.agreement,
        example=FileRef.of(folder / "example.npz"),
        smaller=tuple(FileRef.of(path) for name in SMALLER.values() if (path := folder / name).exists()),
    )


def parting(proto: onnx.ModelProto, model: StandardizedModel, test: Samples) -> str:
    """Say where a model and its network part; nothing where the model doesn't run at all."""
    inputs, _ = test.first(2).take(torch.arange(min(2, len(test))))
    try:
        return first_divergence(proto, model, as_taken(inputs))
    except Exception:  # onnxruntime's errors have no base of their own, and the comparison has told of them
        return ""


def _where(folder: Path) -> str:
    return f"Nothing is published; see {folder / 'parity.json'} and model.rejected.onnx beside it."


def _plain(values: np.ndarray) -> np.ndarray:
    """Give names as text, which numpy reads without unpickling."""
    return values.astype(str) if values.dtype == object else values
