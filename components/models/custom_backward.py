"""A network with a custom autograd function, written as PyTorch recommends."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

INITIALIZATION = "xavier_normal"


class CustomBackward(nn.Module):
    """Convolutional classifier with a custom backward for its activation, Swish.

    Some tutorials give an ``nn.Module`` a ``backward`` method, which is never called: autograd differentiates
    operations on tensors, not modules. To change a gradient, write a ``torch.autograd.Function``, and verify it with
    ``torch.autograd.gradcheck`` (https://docs.pytorch.org/docs/stable/notes/extending.html).

    Args:
        in_channels: channels of the images.
        num_classes: number of classes.
        width: channels of the first convolution.
    """

    def __init__(self, in_channels: int = 1, num_classes: int = 10, width: int = 32):
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, width, 3, padding=1)
        self.conv2 = nn.Conv2d(width, 2 * width, 3, stride=2, padding=1)
        self.conv3 = nn.Conv2d(2 * width, 2 * width, 3, stride=2, padding=1)
        self.activation = Swish()
        self.average = nn.AdaptiveAvgPool2d(2)
        self.output = nn.Linear(8 * width, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Return logits (N, num_classes) for images (N, in_channels, H, W)."""
        x = self.activation(self.conv1(images))
        x = self.activation(self.conv2(x))
        x = self.activation(self.conv3(x))
        return self.output(self.average(x).flatten(1))


class Swish(nn.Module):
    """x · sigmoid(x) (Ramachandran et al. 2017).

    Saves only its input for backward. Composed of torch's operations, it would save the sigmoid too, which takes
    twice the memory.
    """

    def forward(self, x: Tensor) -> Tensor:
        return SwishFunction.apply(x)


class SwishFunction(torch.autograd.Function):
    """Swish with its backward; both are static methods, and the context carries the input between them."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x * torch.sigmoid(x)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        """Multiply the output's gradient by the derivative, sigmoid(x) · (1 + x · (1 - sigmoid(x)))."""
        (x,) = ctx.saved_tensors
        sigmoid = torch.sigmoid(x)
        return gradient * sigmoid * (1 + x * (1 - sigmoid))
