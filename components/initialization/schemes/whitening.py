"""A convolution decorrelates the pixels of its patches (Coates & Ng 2012; Page 2019, "How to train your ResNet")."""

import torch
from torch import Generator, Tensor, nn

from torchmill.components.errors import UserError
from torchmill.components.initialization.statistics import Sample, measure

FOR_NETWORK = False
LAYERS = ("Conv2d",)

EPSILON = 5e-4
"""Share of the largest variance, added to each: directions of hardly any variance would become amplified noise."""


@torch.no_grad()
def fill_layer(layer: nn.Conv2d, rng: Generator, network: nn.Module, sample: Sample) -> None:
    """Make the outputs the principal directions of the layer's input patches, each of variance 1 and with both signs.

    Directions of the largest variance come first.

    Raises:
        UserError: it has more than two outputs per element of a patch, or groups; or the network does not use it.
    """
    outputs, elements = layer.out_channels, layer.weight[0].numel()
    if outputs > 2 * elements or layer.groups > 1:
        raise UserError(
            f"--initialize.rules: whitening makes {2 * elements} outputs of patches of {elements} elements, "
            f"not {outputs}{' in groups' * (layer.groups > 1)}."
        )
    inputs: list[Tensor] = []
    handle = layer.register_forward_pre_hook(lambda _, arguments: inputs.append(arguments[0].detach()))
    try:
        measure(network, sample)
    finally:
        handle.remove()
    if not inputs:
        raise UserError(
            "--initialize.rules: whitening looks at a layer's inputs, and the network does not use this one."
        )
    patches = nn.functional.unfold(inputs[0].float(), layer.kernel_size, stride=layer.stride)
    patches = patches.transpose(0, 1).flatten(1)
    variances, directions = torch.linalg.eigh(patches.double().cov())  # the least variance first
    scaled = directions.T / (variances[:, None] + EPSILON * variances[-1]).sqrt()
    both = torch.stack([scaled, -scaled], 1).flatten(0, 1).flip(0)[:outputs]
    layer.weight.copy_(both.view_as(layer.weight))
