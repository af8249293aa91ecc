"""What the doctor looks at: a network, a batch as it takes it, and the loss it will be trained with."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn


@dataclass(frozen=True)
class CheckInput:
    """A network with a real batch, its targets and its loss."""

    network: nn.Module
    """Initialised, on the CPU; takes ``inputs``."""

    inputs: Tensor
    """2 to 64 samples: images (N, C, H, W) or features (N, F), float and standardised; or token ids (N, L), int64."""

    targets: Tensor
    """Classes (N,), int64; several labels (N, K), float 0/1; or standardised regression targets (N, K), float."""

    loss: Callable[[Any, Tensor], Tensor]
    """Mean loss of the network's output and targets, as in training: takes (logits, *auxiliary logits) too."""

    loss_name: str
    """``cross_entropy``, ``focal``, ``bce`` (with logits), ``mse``, ``huber``, or a name of the user's own."""

    task: str
    """Name of a task."""
    num_outputs: int

    padding_index: int | None = None
    """The token id that fills short sequences up."""

    make_optimizer: Callable[[nn.Module], Any] | None = None
    """Makes the optimizer that training would use, or what has its ``param_groups``."""

    export: Callable[[nn.Module], None] | None = None
    """Tries the export to ONNX and raises with the reason; asked at the full level only."""
