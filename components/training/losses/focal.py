"""Cross-entropy times (1 - p)^gamma: samples that are already right count less (Lin et al. 2017)."""

import torch
from torch import Tensor
from torch.nn import functional as F

from torchmill.components import tasks
from torchmill.components.training.losses import Criterion

TASKS = ("classification", "multilabel")
RANGES = {"gamma": (0, 100)}


def make(task: str, *, gamma: float = 2.0, weight: Tensor | None = None) -> Criterion:
    return of_classes(gamma, weight) if tasks.task(task).is_exclusive else of_labels(gamma, weight)


def of_classes(gamma: float, weight: Tensor | None) -> Criterion:
    """Return the loss of logits (N, K) with classes (N,) or with shares of classes (N, K)."""

    def loss(logits: Tensor, labels: Tensor) -> Tensor:
        logs = F.log_softmax(logits, 1)
        shares = labels if labels.is_floating_point() else F.one_hot(labels, logits.shape[1]).to(logs)
        each = -shares * (1 - logs.exp()) ** gamma * logs
        return (each if weight is None else each * weight.to(logits)).sum(1).mean()

    return loss


def of_labels(gamma: float, weight: Tensor | None) -> Criterion:
    """Return the loss of logits (N, K) with labels 0 and 1 (N, K); the weight is that of the ones."""

    def loss(logits: Tensor, labels: Tensor) -> Tensor:
        labels = labels.to(logits)
        right = torch.sigmoid(logits) * labels + torch.sigmoid(-logits) * (1 - labels)
        weights = None if weight is None else weight.to(logits)
        each = F.binary_cross_entropy_with_logits(logits, labels, pos_weight=weights, reduction="none")
        return ((1 - right) ** gamma * each).mean()

    return loss
