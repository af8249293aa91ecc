"""Input of the doctor: a network, a batch, its targets and the loss of the training."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn


@dataclass(frozen=True)
class CheckInput:
    """A network with a real batch, its targets and its loss.

    Example:
        >>> rows, labels = torch.randn(16, 12), torch.randint(0, 5, (16,))
        >>> loss = torch.nn.functional.cross_entropy
        >>> network = torch.nn.Linear(12, 5)
        >>> examine(CheckInput(network, rows, labels, loss, "cross_entropy", "classification", 5)).worst
        'pass'
    """

    network: nn.Module
    """Initialized network on the CPU that takes ``inputs``."""

    inputs: Tensor
    """2 to 64 samples: standardized float images (N, C, H, W) or features (N, F), or int64 token ids (N, L)."""

    targets: Tensor
    """Classes (N,), int64; labels (N, K), float 0 or 1; or standardized regression targets (N, K), float."""

    loss: Callable[[Any, Tensor], Tensor]
    """Mean loss, as in training, of the network's output and the targets; also takes (logits, *auxiliary logits)."""

    loss_name: str
    """``cross_entropy``, ``focal``, ``bce`` (with logits), ``mse``, ``huber``, or the name of the user's own loss."""

    task: str
    """Name of the task."""
    num_outputs: int

    padding_index: int | None = None
    """Token id that pads short sequences."""

    make_optimizer: Callable[[nn.Module], Any] | None = None
    """Function that makes the training's optimizer, or any object with its ``param_groups``."""

    export: Callable[[nn.Module], None] | None = None
    """Function that exports the network to ONNX and raises if that fails; called at the full level only."""
