"""What a training tells while it goes on."""

from dataclasses import dataclass


@dataclass(frozen=True)
class StepProgress:
    """Where an epoch stands."""

    epoch: int
    """Counted from 1."""
    samples: int
    """Seen in this epoch."""
    loss: float
    """Mean over the epoch so far."""
    score: float


@dataclass(frozen=True)
class EpochResult:
    """What one pass over the training data gave."""

    epoch: int
    """Counted from 1."""
    measure: str
    """What it is judged by: ``accuracy``, ``label_accuracy`` or ``r2``."""
    train_loss: float
    """Mean over the epoch while the weights moved."""
    train_score: float
    """By that measure, likewise while the weights moved and dropout acted."""
    validation_loss: float
    validation_score: float
    lr: float
    """Learning rate of the epoch's last step."""
    samples_per_second: float
    """Of the training loop alone, without validation and checkpoint."""
    is_best: bool
    """Least validation loss so far."""
    is_last: bool
    micro_batch: int | None = None
    """Samples per pass where the device's memory did not take a whole batch at once."""

    def metrics(self) -> dict[str, float]:
        """What is worth a curve."""
        return {
            "train_loss": self.train_loss,
            f"train_{self.measure}": self.train_score,
            "validation_loss": self.validation_loss,
            f"validation_{self.measure}": self.validation_score,
            "lr": self.lr,
            "samples_per_second": self.samples_per_second,
            **({"micro_batch": self.micro_batch} if self.micro_batch else {}),
        }
