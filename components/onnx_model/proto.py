"""Parsed ONNX files, whose weights may be in other files beside them. Imports no torch."""

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import onnx

from torchmill.components.onnx_model.session import open_session

if TYPE_CHECKING:
    import onnxruntime


def read_without_weights(file: Path) -> onnx.ModelProto:
    """Return a model without the weights that are in files beside its own."""
    return onnx.load(str(file), load_external_data=False)


def metadata_of(proto: onnx.ModelProto) -> dict[str, str]:
    """Return the metadata of a model, by key."""
    return {_text(entry.key): _text(entry.value) for entry in proto.metadata_props}


def weights_beside(proto: onnx.ModelProto) -> set[str]:
    """Return the names of the files with weights of a model, beside its own; most have none."""
    entries = (entry for tensor in proto.graph.initializer for entry in tensor.external_data)
    return {entry.value for entry in entries if entry.key == "location"}


def open_changed(proto: onnx.ModelProto, file: Path) -> "onnxruntime.InferenceSession":
    """Open a changed model, whose weights may still be in another file beside its own."""
    if not weights_beside(proto):
        return open_session(proto.SerializeToString())
    with tempfile.NamedTemporaryFile(dir=file.parent, suffix=".onnx") as changed:
        changed.write(proto.SerializeToString())
        changed.flush()
        return open_session(Path(changed.name))


def _text(value: str | bytes) -> str:
    """Return a text of the file; protobuf gives bytes where it is not UTF-8."""
    return value if isinstance(value, str) else value.decode(errors="replace")
