"""What a network gives for all samples of a split, and a file of it."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from torchmill.components.data.samples import Samples
from torchmill.components.errors import UserError
from torchmill.components.files import write_atomically

Answer = Callable[[Samples], Tensor]
"""From samples to outputs (N, K), on the CPU."""


@torch.no_grad()
def predict(model: nn.Module, split: Samples, batch_size: int) -> Tensor:
    """Give what the model gives for all samples, (N, K), on the CPU."""
    return torch.cat([model(inputs).float().cpu() for inputs, _ in split.batches(batch_size)])


@dataclass(frozen=True)
class Predictions:
    """The answers to a test split, sample by sample, by which two runs can be compared."""

    outputs: np.ndarray
    """Logits, or values in the targets' own units; float32, (N, K)."""
    truth: np.ndarray
    """int64 classes (N,), float32 labels or targets (N, K)."""
    temperature: float
    """By which logits are divided for probabilities."""

    def write(self, path: Path) -> None:
        """Write them into an ``.npz`` file."""
        write_atomically(path, self._save)

    def _save(self, path: Path) -> None:
        with path.open("wb") as file:  # an open file, since savez would add .npz to a path
            np.savez_compressed(file, outputs=self.outputs, truth=self.truth, temperature=np.float64(self.temperature))

    @classmethod
    def read(cls, path: Path) -> "Predictions":
        """Read such a file.

        Raises:
            UserError: it is none, or damaged.
        """
        try:
            with np.load(path) as held:
                return cls(held["outputs"], held["truth"], float(held["temperature"]))
        except (OSError, ValueError, KeyError, EOFError) as error:
            raise UserError(f"{path} holds no predictions: {error}", "Evaluate that run again.") from error
