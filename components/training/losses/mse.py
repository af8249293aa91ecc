"""Mean squared error of standardized targets (N, K)."""

from torch.nn import functional as F

from torchmill.components.refs import Task
from torchmill.components.training.losses import Criterion

TASKS = ("regression",)
USUAL = True


def make(task: Task) -> Criterion:
    return F.mse_loss
