"""Orthogonal, then scaled to outputs of variance 1 on a batch of the data (Mishkin & Matas 2016)."""

from collections.abc import Sequence

import torch
from torch import Generator, Tensor, nn

from torchmill.components.initialization.statistics import Sample, evaluation_mode, measure, output_std

FOR_RULES = False

ROUNDS, TOLERANCE = 10, 0.05


def fill(weight: Tensor, rng: Generator) -> None:
    nn.init.orthogonal_(weight, generator=rng)


@torch.no_grad()
def finish(network: nn.Module, layers: Sequence[str], sample: Sample) -> None:
    """Scale each layer's weights so that its output on the sample has variance 1.

    Layers are scaled in the order of use. A layer of zero output, or an unused one, stays as it is.
    """
    with evaluation_mode(network):
        order = [layer.layer for layer in measure(network, sample) if layer.output_std is not None]
        for name in (name for name in order if name in set(layers)):
            weight = network.get_submodule(name).get_parameter("weight")
            for _ in range(ROUNDS):
                deviation = output_std(network, name, sample)
                if not deviation or abs(deviation**2 - 1) < TOLERANCE:
                    break
                weight.div_(deviation)
