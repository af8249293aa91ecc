"""Run an ONNX session over torch tensors."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from torchmill.components.data.samples import Samples
from torchmill.components.onnx_model.feed import fed

if TYPE_CHECKING:
    import onnxruntime


def run(
    session: "onnxruntime.InferenceSession", samples: Samples, batch_size: int
) -> tuple[list[dict[str, np.ndarray]], np.ndarray]:
    """Return the batches of inputs as the model takes them, by name, and the first output for all samples.

    A bare model's inputs are prepared by its metadata. If its sizes are fixed, they are filled up with zeros.
    """
    sizes = {taken.name: taken.shape for taken in session.get_inputs()}
    metadata = session.get_modelmeta().custom_metadata_map
    raw = [as_taken(inputs) for inputs, _ in samples.batches(batch_size)]
    batches = [fed(inputs, metadata, sizes) for inputs in raw]
    outputs = [np.asarray(session.run(None, batch)[0]) for batch in batches]
    return batches, np.concatenate([output[: len(inputs)] for output, inputs in zip(outputs, raw, strict=True)])


def answers(
    session: "onnxruntime.InferenceSession", names: Sequence[str] | None, **inputs: np.ndarray
) -> list[np.ndarray]:
    """Return the named outputs of a model, or all of them, for inputs by name."""
    return [np.asarray(value) for value in session.run(names, inputs)]


def as_taken(inputs: Tensor) -> np.ndarray:
    """Convert raw inputs to the ONNX model's dtype: token ids become int64."""
    return (inputs.long() if inputs.dtype == torch.int32 else inputs).numpy()
