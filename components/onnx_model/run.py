"""Run an ONNX session over torch tensors."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from torchmill.components.data.samples import Samples

if TYPE_CHECKING:
    import onnxruntime


def run(
    session: "onnxruntime.InferenceSession", samples: Samples, batch_size: int
) -> tuple[list[np.ndarray], np.ndarray]:
    """Return the batches of inputs in the model's dtype, and the first output for all samples."""
    (takes,) = session.get_inputs()
    batches = [as_taken(inputs) for inputs, _ in samples.batches(batch_size)]
    return batches, np.concatenate([session.run(None, {takes.name: batch})[0] for batch in batches])


def answers(
    session: "onnxruntime.InferenceSession", names: Sequence[str] | None, **inputs: np.ndarray
) -> list[np.ndarray]:
    """Return the named outputs of a model, or all of them, for inputs by name."""
    return [np.asarray(value) for value in session.run(names, inputs)]


def as_taken(inputs: Tensor) -> np.ndarray:
    """Convert raw inputs to the ONNX model's dtype: token ids become int64."""
    return (inputs.long() if inputs.dtype == torch.int32 else inputs).numpy()
