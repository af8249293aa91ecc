"""Courses of the learning rate over a training, by name."""

import math
from typing import Any

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler, OneCycleLR

from torchmill.components.training.config import SCHEDULES, TrainConfig

MOMENTUM_SWING = 0.05
"""By which a one-cycle lessens momentum at its peak and raises it at its ends (Smith & Topin 2018: 0.85 to 0.95)."""
BETTER = 1e-4
"""Share of the least validation loss by which another one must be less to count as progress."""


def make_schedule(optimizer: Optimizer, config: TrainConfig, steps: int) -> LRScheduler:
    """Make the schedule over ``steps`` optimizer steps; its ``step()`` follows each of the optimizer's."""
    values: dict[str, Any] = SCHEDULES[config.schedule] | config.schedule_args
    if config.schedule == "one_cycle" and steps > 1:
        return _one_cycle(optimizer, steps, **values)
    warmup = min(round(config.warmup * steps), steps - 1)
    if config.schedule == "plateau":
        return PlateauLR(optimizer, Course("constant", {}, warmup, steps), **values)
    # A cycle of one step would never leave its beginning, at a 25th of the rate.
    name = "constant" if config.schedule == "one_cycle" else config.schedule
    return LambdaLR(optimizer, Course(name, values, warmup, steps))


class Course:
    """The share of the learning rate that each step takes: a linear rise over the first ones, then a curve."""

    def __init__(self, name: str, values: dict[str, Any], warmup: int, steps: int):
        self.name, self.values, self.warmup, self.steps = name, values, warmup, steps

    def __call__(self, step: int) -> float:
        if step < self.warmup:
            return (step + 1) / (self.warmup + 1)
        done, all_steps = step - self.warmup, self.steps - self.warmup
        match self.name:
            case "cosine":  # Loshchilov & Hutter 2017, without restarts
                end = self.values["end"]
                return end + (1 - end) * (1 + math.cos(math.pi * min(1.0, done / all_steps))) / 2
            case "linear":
                return 1 + (self.values["end"] - 1) * min(1.0, done / all_steps)
            case "step":
                return self.values["factor"] ** (done * self.values["parts"] // all_steps)
            case _:
                return 1.0


class PlateauLR(LambdaLR):
    """Lessens the rate where the validation loss has stopped falling.

    ``torch.optim.lr_scheduler.ReduceLROnPlateau`` does not go together with a rise at the beginning: each sets the
    rate without regard to the other.

    Args:
        course: what the rate does besides.
        factor: what remains of it each time.
        patience: so many epochs without progress are borne.
    """

    def __init__(self, optimizer: Optimizer, course: Course, factor: float, patience: int):
        self.share, self.least, self.waited = 1.0, math.inf, 0
        self.factor, self.patience = factor, patience
        super().__init__(optimizer, course)

    def get_lr(self) -> list[Any]:
        return [lr * self.share for lr in super().get_lr()]

    def judge(self, validation_loss: float) -> None:
        """Take an epoch's validation loss into account."""
        if validation_loss < self.least * (1 - BETTER):
            self.least, self.waited = validation_loss, 0
            return
        self.waited += 1
        if self.waited > self.patience:
            self.share, self.waited = self.share * self.factor, 0
            for group in self.optimizer.param_groups:
                group["lr"] *= self.factor


def _one_cycle(optimizer: Optimizer, steps: int, rise: float, start: float, end: float) -> OneCycleLR:
    """Up and down along a cosine, momentum against it (Smith & Topin 2018)."""
    first = optimizer.param_groups[0]
    momentum = first["betas"][0] if "betas" in optimizer.defaults else first.get("momentum", 0.0)
    cycles = bool(momentum) and bool({"betas", "momentum"} & set(optimizer.defaults))
    return OneCycleLR(
        optimizer,
        max_lr=[group["lr"] for group in optimizer.param_groups],
        total_steps=steps,
        pct_start=rise,
        div_factor=1 / start,
        final_div_factor=start / end,
        cycle_momentum=cycles,
        base_momentum=max(0.0, momentum - MOMENTUM_SWING),
        max_momentum=min(0.99, momentum + MOMENTUM_SWING),
    )
