"""What a training tells while it goes on."""

from dataclasses import dataclass


@dataclass(frozen=True)
class StepProgress:
    """Where an epoch stands."""

    epoch: int
    """Counted from 1."""
    images: int
    """Seen in this epoch."""
    loss: float
    """Mean over the epoch so far, nats."""
    accuracy: float


@dataclass(frozen=True)
class EpochResult:
    """What one pass over the training data gave."""

    epoch: int
    """Counted from 1."""
    train_loss: float
    """Mean cross-entropy over the epoch while the weights moved, nats."""
    train_accuracy: float
    validation_loss: float
    validation_accuracy: float
    lr: float
    """Learning rate of the epoch's last step."""
    images_per_second: float
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
            "train_accuracy": self.train_accuracy,
            "validation_loss": self.validation_loss,
            "validation_accuracy": self.validation_accuracy,
            "lr": self.lr,
            "images_per_second": self.images_per_second,
            **({"micro_batch": self.micro_batch} if self.micro_batch else {}),
        }
