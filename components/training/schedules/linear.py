"""A line from the learning rate down to a share of it."""

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from torchmill.components.training.schedules import by_share

RANGES = {"end": (0.0, 1.0)}


def make(optimizer: Optimizer, steps: int, warmup: int, *, end: float = 0.0) -> LambdaLR:
    """``end`` is the last step's share of the learning rate."""
    return by_share(optimizer, steps, warmup, lambda done, steps: 1 + (end - 1) * min(1.0, done / steps))
