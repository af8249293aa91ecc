"""The state of a training on disk."""

import io
from pathlib import Path
from typing import Any

import torch

from components.files import write_atomically
from components.refs import FileRef


def save(state: dict[str, Any], path: Path) -> FileRef:
    """Write a state of tensors and plain values; the file is replaced as a whole."""
    buffer = io.BytesIO()  # torch's own writing tells a full disk as a RuntimeError about positions
    torch.save(state, buffer)
    write_atomically(path, lambda partial: partial.write_bytes(buffer.getbuffer()))
    return FileRef.of(path)


def load(path: Path) -> dict[str, Any]:
    """Read a state. Nothing but tensors and plain values is unpickled, so that a foreign file can run no code."""
    return torch.load(path, map_location="cpu", weights_only=True)
