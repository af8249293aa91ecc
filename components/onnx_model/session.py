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
    """Open an ONNX file, or its bytes, with as many threads as this process has CPU cores.

    Args:
        spinning: let waiting threads keep their cores, which other threads could use.
    """
    # By default the import writes an id of this machine to ~/.cache and reports to the vendor.
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = processors()  # onnxruntime would use all cores of the machine, also in a container
    options.log_severity_level = 3
    options.add_session_config_entry("session.intra_op.allow_spinning", str(int(spinning)))
    source = model if isinstance(model, bytes) else str(model)
    return onnxruntime.InferenceSession(source, options, providers=list(providers))
