"""Equal parts, each with the learning rate of the part before times a factor."""

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from torchmill.components.training.schedules import by_share

RANGES = {"factor": (1e-12, 1.0), "parts": (1, 100_000)}


def make(optimizer: Optimizer, steps: int, warmup: int, *, factor: float = 0.1, parts: int = 3) -> LambdaLR:
    return by_share(optimizer, steps, warmup, lambda done, steps: factor ** (done * parts // steps))
