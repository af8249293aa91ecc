"""Schedules of the learning rate, one per file: a file with ``make(optimizer, steps, warmup, *, …)`` is an option."""

from collections.abc import Callable
from typing import Protocol, runtime_checkable

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler

from torchmill.components.training.config import SCHEDULES, TrainConfig


def make_schedule(optimizer: Optimizer, config: TrainConfig, steps: int) -> LRScheduler:
    """Make the schedule over ``steps`` optimizer steps; call its ``step()`` after each of the optimizer's."""
    warmup = min(round(config.warmup * steps), steps - 1)
    return SCHEDULES.load(config.schedule).make(optimizer, steps, warmup, **config.schedule_args)


def with_warmup(steps: int, warmup: int, share: Callable[[int, int], float]) -> Callable[[int], float]:
    """Return the share of the learning rate by step: a linear warm-up, then ``share(steps done, steps in all)``."""

    def share_of_step(step: int) -> float:
        return (step + 1) / (warmup + 1) if step < warmup else share(step - warmup, steps - warmup)

    return share_of_step


def by_share(optimizer: Optimizer, steps: int, warmup: int, share: Callable[[int, int], float]) -> LambdaLR:
    """Make a schedule from the share of the learning rate after the warm-up.

    Example:
        by_share(optimizer, steps, warmup, lambda done, steps: 1 - done / steps)
    """
    return LambdaLR(optimizer, with_warmup(steps, warmup, share))


@runtime_checkable
class ByValidationLoss(Protocol):
    """A schedule that depends on the validation loss: it gets each epoch's."""

    def judge(self, validation_loss: float) -> None: ...
