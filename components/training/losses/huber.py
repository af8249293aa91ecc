"""Squared error up to ``delta`` standard deviations of the target, linear beyond (Huber 1964)."""

from torch.nn import functional as F

from torchmill.components.training.losses import Criterion

TASKS = ("regression",)
RANGES = {"delta": (1e-9, 1e9)}


def make(task: str, *, delta: float = 1.0) -> Criterion:
    return lambda outputs, targets: F.huber_loss(outputs, targets, delta=delta)
