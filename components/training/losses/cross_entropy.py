"""Cross-entropy, in nats, of logits (N, K) with classes (N,) or with shares of classes (N, K)."""

from torch import Tensor
from torch.nn import functional as F

from torchmill.components.training.losses import Criterion

TASKS = ("classification",)
USUAL = True
RANGES = {"label_smoothing": (0, 1)}


def make(task: str, *, weight: Tensor | None = None, label_smoothing: float = 0.0) -> Criterion:
    def loss(logits: Tensor, labels: Tensor) -> Tensor:
        if weight is None:
            return F.cross_entropy(logits, labels, label_smoothing=label_smoothing)
        # Torch's mean divides by the weights in the batch; then parts of a batch would not add up to the whole.
        weights = weight.to(logits)
        if labels.is_floating_point():
            return F.cross_entropy(logits, labels, weights, label_smoothing=label_smoothing)
        total = F.cross_entropy(logits, labels, weights, label_smoothing=label_smoothing, reduction="sum")
        return total / len(labels)

    return loss
