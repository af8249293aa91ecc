"""A convolution passes its inputs on as its first outputs; its other outputs are random."""

import torch
from torch import Generator, Tensor, nn

FOR_NETWORK = False
LAYERS = ("Conv2d",)


@torch.no_grad()
def fill_layer(layer: nn.Conv2d, rng: Generator, network: nn.Module, sample: Tensor) -> None:
    nn.init.kaiming_normal_(layer.weight, generator=rng)
    nn.init.dirac_(layer.weight[: layer.weight.shape[1]])
