"""Half a cosine from the learning rate down to a share of it (Loshchilov & Hutter 2017, without restarts)."""

import math

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from torchmill.components.training.schedules import by_share

RANGES = {"end": (0.0, 1.0)}


def make(optimizer: Optimizer, steps: int, warmup: int, *, end: float = 0.0) -> LambdaLR:
    """``end`` is the last step's share of the learning rate."""

    def share(done: int, steps: int) -> float:
        return end + (1 - end) * (1 + math.cos(math.pi * min(1.0, done / steps))) / 2

    return by_share(optimizer, steps, warmup, share)
