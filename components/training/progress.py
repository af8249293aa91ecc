"""Progress within an epoch, and the result of an epoch."""

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class StepProgress:
    """Progress within an epoch."""

    epoch: int
    """Number of the epoch, counted from 1."""
    samples: int
    """Samples seen in this epoch."""
    loss: float
    """Mean over the epoch so far."""
    score: float | None
    """Mean over the epoch so far; None if only validation has scores."""


@dataclass(frozen=True)
class EpochResult:
    """Losses, scores and speed of one pass over the training data."""

    epoch: int
    """Number of the epoch, counted from 1."""
    measure: str
    """Name of the scores: ``accuracy``, ``label_accuracy`` or ``r2``."""
    train_loss: float
    """Mean over the epoch's steps, in train mode, while the weights changed."""
    train_score: float | None
    """Mean over the epoch's steps, in train mode, while the weights changed; None if only validation has scores."""
    validation_loss: float
    validation_score: float
    lr: float
    """Learning rate of the epoch's last step."""
    samples_per_second: float
    """Speed of the training loop, without validation and checkpoints."""
    is_best: bool
    """Lowest validation loss so far."""
    is_last: bool
    parts: Mapping[str, float] = field(default_factory=dict)
    """Means of the parts of the training loss by name."""
    micro_batch: int | None = None
    """Samples per pass, if a whole batch didn't fit in memory."""

    def metrics(self) -> dict[str, float]:
        """Return the values to plot over epochs."""
        return {
            "train_loss": self.train_loss,
            **({} if self.train_score is None else {f"train_{self.measure}": self.train_score}),
            **{f"train_{name}": value for name, value in self.parts.items()},
            "validation_loss": self.validation_loss,
            f"validation_{self.measure}": self.validation_score,
            "lr": self.lr,
            "samples_per_second": self.samples_per_second,
            **({"micro_batch": self.micro_batch} if self.micro_batch else {}),
        }
