"""A network with an operation of its own, forward and backward, written the way that PyTorch means it."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable


class CustomBackward(nn.Module):
    """Convolutions whose activation, Swish, has a backward of its own.

    A ``backward`` method on an ``nn.Module``, as some tutorials show it, is never called: autograd records operations
    on tensors, not modules, and runs back through those. What changes a gradient is a ``torch.autograd.Function``, and
    ``torch.autograd.gradcheck`` tells whether it is right
    (https://docs.pytorch.org/docs/stable/notes/extending.html).

    Args:
        in_channels: channels of the images.
        num_classes: width of the output.
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
        """Give logits (N, num_classes) for images (N, in_channels, H, W)."""
        x = self.activation(self.conv1(images))
        x = self.activation(self.conv2(x))
        x = self.activation(self.conv3(x))
        return self.output(self.average(x).flatten(1))


class Swish(nn.Module):
    """x · sigmoid(x) (Ramachandran et al. 2017), which keeps its input alone for the way back.

    Composed of torch's operations it would keep the sigmoid, too: twice the memory.
    """

    def forward(self, x: Tensor) -> Tensor:
        return SwishFunction.apply(x)


class SwishFunction(torch.autograd.Function):
    """The operation: forward and backward are static, and what the way back needs is saved in the context."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x * torch.sigmoid(x)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        """Give the gradient of x for that of the output: sigmoid(x) · (1 + x · (1 - sigmoid(x)))."""
        (x,) = ctx.saved_tensors
        sigmoid = torch.sigmoid(x)
        return gradient * sigmoid * (1 + x * (1 - sigmoid))
