"""Mean squared error of standardized targets (N, K)."""

from torch.nn import functional as F

from torchmill.components.training.losses import Criterion

TASKS = ("regression",)
USUAL = True


def make(task: str) -> Criterion:
    return F.mse_loss
