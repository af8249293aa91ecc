"""Up and down along a cosine, momentum against it (Smith & Topin 2018)."""

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, OneCycleLR

from torchmill.components.training.schedules import by_share

RANGES = {"rise": (1e-12, 0.9999999999999999), "start": (1e-12, 1.0), "end": (1e-12, 1.0)}

WARMUP = "rise"
"""Argument that sets its own warm-up."""

MOMENTUM_SWING = 0.05
"""Decrease of momentum at the peak and increase at both ends (Smith & Topin 2018: 0.85 to 0.95)."""


def make(
    optimizer: Optimizer, steps: int, warmup: int, *, rise: float = 0.3, start: float = 0.04, end: float = 4e-6
) -> LRScheduler:
    """``rise`` is a share of all steps; ``start`` and ``end`` are shares of the learning rate."""
    if steps < 2:  # a cycle of one step would stay at its start, a 25th of the rate
        return by_share(optimizer, steps, warmup, lambda done, steps: 1.0)
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
