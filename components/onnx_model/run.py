"""Run an ONNX session over torch tensors."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from torchmill.components.data.samples import Samples
from torchmill.components.onnx_model.bare import filled, fixed_sizes, prepared_inputs

if TYPE_CHECKING:
    import onnxruntime


def run(
    session: "onnxruntime.InferenceSession", samples: Samples, batch_size: int
) -> tuple[list[np.ndarray], np.ndarray]:
    """Return the batches of inputs as the model takes them, and the first output for all samples.

    A bare model's inputs are prepared by its metadata. If its sizes are fixed, they are filled up with zeros.
    """
    (takes,) = session.get_inputs()
    metadata = session.get_modelmeta().custom_metadata_map
    prepared = [prepared_inputs(as_taken(inputs), metadata) for inputs, _ in samples.batches(batch_size)]
    fixed = fixed_sizes(takes.shape)
    batches = [filled(batch, fixed) for batch in prepared]
    outputs = [np.asarray(session.run(None, {takes.name: batch})[0]) for batch in batches]
    return batches, np.concatenate([output[: len(batch)] for output, batch in zip(outputs, prepared, strict=True)])


def answers(
    session: "onnxruntime.InferenceSession", names: Sequence[str] | None, **inputs: np.ndarray
) -> list[np.ndarray]:
    """Return the named outputs of a model, or all of them, for inputs by name."""
    return [np.asarray(value) for value in session.run(names, inputs)]


def as_taken(inputs: Tensor) -> np.ndarray:
    """Convert raw inputs to the ONNX model's dtype: token ids become int64."""
    return (inputs.long() if inputs.dtype == torch.int32 else inputs).numpy()
