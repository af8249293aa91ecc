"""Outputs of a network for all samples of a split."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from torchmill.components.data.samples import Samples

Answer = Callable[[Samples], Tensor]
"""Function from samples to outputs (N, K), on the CPU."""


@torch.no_grad()
def predict(model: nn.Module, split: Samples, batch_size: int) -> Tensor:
    """Return the outputs of a model for all samples, (N, K), on the CPU."""
    return torch.cat([model(inputs).float().cpu() for inputs, _ in split.batches(batch_size)])
