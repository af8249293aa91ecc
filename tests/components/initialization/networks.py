"""A small network as a user writes it, and comparisons of networks."""

import torch
from torch import nn

from torchmill.components.refs import FileRef, NetworkRef

LINEAR = """
class Own(nn.Module):
    def __init__(self, num_classes, in_channels, image_size, width=8):
        super().__init__()
        self.hidden = nn.Linear(in_channels * image_size**2, width)
        self.out = nn.Linear(width, num_classes)

    def forward(self, x):
        return self.out(self.hidden(x.flatten(1)).relu())
"""


def weights(network: nn.Module) -> list[torch.Tensor]:
    return [tensor.detach().clone() for tensor in network.state_dict().values()]


def same(first: nn.Module, second: nn.Module) -> bool:
    """Return True if all weights and buffers are equal bit for bit."""
    pairs = zip(weights(first), weights(second), strict=True)
    return all(a.dtype == b.dtype and torch.equal(a, b) for a, b in pairs)


def reference_to(reference: str, network: nn.Module, weights: FileRef, **arguments: object) -> NetworkRef:
    count = sum(parameter.numel() for parameter in network.parameters())
    return NetworkRef(reference=reference, arguments=arguments, weights=weights, parameters=count)
