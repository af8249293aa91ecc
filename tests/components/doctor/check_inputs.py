"""Inputs of the doctor for tests: small batches of random images, features and tokens."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from torchmill.components.doctor.check_input import CheckInput

CLASSES = 5


def cross_entropy(output, targets: Tensor) -> Tensor:
    """Compute the cross entropy as training does: auxiliary outputs have a weight of 0.3."""
    if isinstance(output, tuple):
        return F.cross_entropy(output[0], targets) + sum(0.3 * F.cross_entropy(o, targets) for o in output[1:])
    return F.cross_entropy(output, targets)


LOSSES = {
    "cross_entropy": cross_entropy,
    "bce": F.binary_cross_entropy_with_logits,
    "mse": F.mse_loss,
    "huber": F.huber_loss,
}
TASKS = {"cross_entropy": "classification", "bce": "multilabel", "mse": "regression", "huber": "regression"}


def check_input(
    network: nn.Module, inputs: str | Tensor = "features", loss: str = "cross_entropy", samples: int = 16, **more
) -> CheckInput:
    """Return an input with a random batch.

    Args:
        network: network to examine.
        inputs: a batch, or its kind: features (N, 12), images (N, 3, 16, 16) or tokens (N, 9) below 30.
        loss: name of the loss.
        samples: size of the batch.
        more: further fields of ``CheckInput``.
    """
    rng = torch.Generator().manual_seed(0)
    outputs = more.pop("num_outputs", CLASSES)
    match inputs:
        case Tensor():
            batch = inputs
        case "features":
            batch = torch.randn(samples, 12, generator=rng)
        case "images":
            batch = torch.randn(samples, 3, 16, 16, generator=rng)
        case _:
            batch = torch.randint(1, 30, (samples, 9), generator=rng)
            lengths = torch.randint(3, 10, (samples, 1), generator=rng)
            batch[torch.arange(9) >= lengths] = 0
            more = {"padding_index": 0} | more
    match loss:
        case "cross_entropy":
            targets = torch.randint(0, outputs, (samples,), generator=rng)
        case "bce":
            targets = torch.randint(0, 2, (samples, outputs), generator=rng).float()
        case _:
            targets = torch.randn(samples, outputs, generator=rng)
    fields = {"make_optimizer": lambda network: torch.optim.SGD(network.parameters(), 0.1)} | more
    return CheckInput(network, batch, targets, LOSSES[loss], loss, TASKS[loss], outputs, **fields)
