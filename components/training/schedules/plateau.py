"""A lower learning rate each time the validation loss has stopped falling."""

import math
from collections.abc import Callable
from typing import Any

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from torchmill.components.training.schedules import with_warmup

RANGES = {"factor": (1e-12, 1.0), "patience": (0, 100_000)}

BETTER = 1e-4
"""Smallest relative decrease of the validation loss that counts as progress."""


def make(optimizer: Optimizer, steps: int, warmup: int, *, factor: float = 0.1, patience: int = 2) -> "PlateauLR":
    return PlateauLR(optimizer, with_warmup(steps, warmup, lambda done, steps: 1.0), factor, patience)


class PlateauLR(LambdaLR):
    """Lowers the rate where the validation loss has stopped falling.

    ``torch.optim.lr_scheduler.ReduceLROnPlateau`` can't be combined with a warm-up: each sets the rate without regard
    to the other.

    Args:
        course: share of the learning rate by step, without the plateaus.
        factor: share of the rate that each plateau leaves.
        patience: epochs without progress to tolerate.
    """

    def __init__(self, optimizer: Optimizer, course: Callable[[int], float], factor: float, patience: int):
        self.share, self.least, self.waited = 1.0, math.inf, 0
        self.factor, self.patience = factor, patience
        super().__init__(optimizer, course)

    def get_lr(self) -> list[Any]:
        return [lr * self.share for lr in super().get_lr()]

    def judge(self, validation_loss: float) -> None:
        """Lower the rate if the validation loss of an epoch shows no progress, after the patience."""
        if validation_loss < self.least * (1 - BETTER):
            self.least, self.waited = validation_loss, 0
            return
        self.waited += 1
        if self.waited > self.patience:
            self.share, self.waited = self.share * self.factor, 0
            for group in self.optimizer.param_groups:
                group["lr"] *= self.factor
