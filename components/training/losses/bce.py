"""Binary cross-entropy, in nats, of logits (N, K) with labels 0 and 1 (N, K); the weight is that of the ones."""

from torch import Tensor
from torch.nn import functional as F

from torchmill.components.training.losses import Criterion

TASKS = ("multilabel",)
USUAL = True
RANGES = {"label_smoothing": (0, 1)}


def make(task: str, *, weight: Tensor | None = None, label_smoothing: float = 0.0) -> Criterion:
    def loss(logits: Tensor, labels: Tensor) -> Tensor:
        smooth = labels.to(logits) * (1 - label_smoothing) + label_smoothing / 2
        weights = None if weight is None else weight.to(logits)
        return F.binary_cross_entropy_with_logits(logits, smooth, pos_weight=weights)

    return loss
