"""Outputs of a network for all samples of a split, beside the truth, in a file."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from torchmill.components.errors import UserError
from torchmill.components.files import write_arrays


@dataclass(frozen=True)
class Predictions:
    """Outputs for a test split, sample by sample, to compare two runs."""

    outputs: np.ndarray
    """Logits, or values in the targets' own units; float32, (N, K)."""
    truth: np.ndarray
    """Labels as the data set stores them."""
    temperature: float
    """Divisor of the logits before they become probabilities."""

    def write(self, path: Path) -> None:
        """Write them into an ``.npz`` file."""
        arrays = {"outputs": self.outputs, "truth": self.truth, "temperature": np.float64(self.temperature)}
        write_arrays(path, arrays, compress=True)

    @classmethod
    def read(cls, path: Path) -> "Predictions":
        """Read such a file.

        Raises:
            UserError: the file is damaged, or holds something else.
        """
        try:
            with np.load(path) as file:
                return cls(file["outputs"], file["truth"], float(file["temperature"]))
        except (OSError, ValueError, KeyError, EOFError) as error:
            raise UserError(f"{path} holds no predictions: {error}", "Evaluate that run again.") from error
