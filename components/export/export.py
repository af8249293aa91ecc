"""Export a network and publish nothing that was not found equal to it."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from torch import nn

from components.config import ExportConfig
from components.data.batches import Samples
from components.errors import UserError
from components.export.parity import compare, open_session, run
from components.export.to_onnx import INPUTS, OUTPUTS, to_onnx
from components.files import write_atomically, write_text
from components.refs import DataRef, ExportRef, FileRef

EXAMPLES = 8  # samples in the example file


class ParityError(UserError):
    """The exported model does not give the network's answers."""


def export(
    network: nn.Module,
    data: DataRef,
    test: Samples,
    config: ExportConfig,
    metadata: Mapping[str, str],
    folder: Path,
) -> ExportRef:
    """Write ``model.onnx``, ``parity.json`` and ``example.npz`` into ``folder``.

    A model that fails the comparison is called ``model.rejected.onnx``, and there is no ``model.onnx``.

    Raises:
        ParityError: it differs from the network; says how.
        UserError: the network cannot be exported.
    """
    candidate, final = folder / "model.rejected.onnx", folder / "model.onnx"
    for earlier in (final, folder / "parity.json", folder / "example.npz"):
        earlier.unlink(missing_ok=True)
    to_onnx(network, data, metadata, candidate)
    parity = compare(candidate, network, data, test, config.batch_sizes, config.tolerance)
    write_text(folder / "parity.json", parity.as_json())
    if not parity.passed:
        raise ParityError(
            f"The ONNX model differs from the network: {'; '.join(parity.complaints)}.",
            f"Nothing is published; see {folder / 'parity.json'} and {candidate.name} beside it.",
        )
    candidate.replace(final)
    inputs, outputs = run(open_session(final), test.first(EXAMPLES), EXAMPLES)
    named = {INPUTS[data.kind]: inputs[0], OUTPUTS[data.task]: outputs}
    write_atomically(folder / "example.npz", lambda partial: _save_example(partial, named))
    return ExportRef(
        onnx=FileRef.of(final),
        report=FileRef.of(folder / "parity.json"),
        max_abs_diff=parity.max_abs_diff,
        agreement=parity.agreement,
        example=FileRef.of(folder / "example.npz"),
    )


def _save_example(path: Path, named: Mapping[str, np.ndarray]) -> None:
    with path.open("wb") as file:  # an open file, since savez would add .npz to a path
        np.savez(file, **named)  # ty: ignore[invalid-argument-type]
