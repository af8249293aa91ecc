"""Outputs of a network for all samples of a split, beside the truth, in a file."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from torchmill.components.errors import UserError
from torchmill.components.files import write_arrays
from torchmill.components.state_files import Damaged, read_arrays


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
            arrays = read_arrays(path, {"outputs": (2,), "truth": (1, 2), "temperature": (0,)})
        except (OSError, Damaged) as error:
            raise UserError(f"{path} holds no predictions: {error}", "Evaluate that run again.") from error
        outputs, truth, temperature = arrays["outputs"], arrays["truth"], float(arrays["temperature"])
        labels = truth if truth.ndim == 1 else np.zeros(0)
        has_classes = not len(labels) or (labels.min() >= 0 and labels.max() < outputs.shape[1])
        if len(outputs) != len(truth) or not has_classes or not temperature > 0:
            raise UserError(f"{path} holds no predictions: its arrays don't fit.", "Evaluate that run again.")
        return cls(outputs, truth, temperature)
