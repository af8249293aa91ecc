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
    """Give the inputs as the model takes them, batch by batch, and the outputs of all samples."""
    (takes,) = session.get_inputs()
    batches = [as_taken(inputs) for inputs, _ in samples.batches(batch_size)]
    return batches, np.concatenate([session.run(None, {takes.name: batch})[0] for batch in batches])


def answers(
    session: "onnxruntime.InferenceSession", names: Sequence[str] | None, **given: np.ndarray
) -> list[np.ndarray]:
    """Give a model's outputs by name, or all of them, to inputs by name."""
    return [np.asarray(value) for value in session.run(names, given)]


def as_taken(inputs: Tensor) -> np.ndarray:
    """Give raw inputs as an ONNX model takes them: token ids are int64 there."""
    return (inputs.long() if inputs.dtype == torch.int32 else inputs).numpy()
