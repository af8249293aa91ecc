"""ONNX models opened in onnxruntime. Imports no torch."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from torchmill.components.processes import processors

if TYPE_CHECKING:
    import onnxruntime

CPU = ("CPUExecutionProvider",)


def open_session(
    model: Path | bytes, providers: Sequence[str] = CPU, spinning: bool = True
) -> "onnxruntime.InferenceSession":
    """Open an ONNX file, or what it holds, on the processors that this process may use.

    Args:
        spinning: threads that wait for work keep their processor, which others beside them could use.
    """
    # Importing it makes an identity of this machine in ~/.cache and reports to its vendor, unless told not to.
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = processors()  # its own guess is the machine's cores, whatever a container allows
    options.log_severity_level = 3
    options.add_session_config_entry("session.intra_op.allow_spinning", str(int(spinning)))
    given = model if isinstance(model, bytes) else str(model)
    return onnxruntime.InferenceSession(given, options, providers=list(providers))
