"""A U-Net: a convolutional encoder and decoder with connections between layers of one size, for a class a pixel."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

TASKS = ("segmentation",)
INITIALIZATION = "kaiming_normal"


class UNet(nn.Module):
    """Two convolutions at each size, halved by pooling and doubled by interpolation (Ronneberger et al. 2015).

    It has batch norm and padded convolutions, so that pictures of any size keep it; sizes that a power of 2 doesn't
    divide are cut off after the doubling.

    Args:
        in_channels: channels of the pictures.
        num_classes: number of classes.
        width: channels at full size; they double with each halving.
        depth: number of halvings.
    """

    def __init__(self, in_channels: int, num_classes: int, width: int = 16, depth: int = 3):
        super().__init__()
        widths = [width * 2**level for level in range(depth + 1)]
        self.down = nn.ModuleList(
            block(before, after) for before, after in zip([in_channels, *widths[:-1]], widths, strict=True)
        )
        self.up = nn.ModuleList(block(2 * after + after, after) for after in reversed(widths[:-1]))
        self.output = nn.Conv2d(width, num_classes, 1)

    def forward(self, image: Tensor) -> Tensor:
        """Return logits (N, classes, H, W).

        Args:
            image: (N, channels, H, W).
        """
        passed = []
        for level, layer in enumerate(self.down):
            image = layer(F.max_pool2d(image, 2, ceil_mode=True) if level else image)
            passed.append(image)
        image = passed.pop()
        for layer in self.up:
            across = passed.pop()
            image = F.interpolate(image, scale_factor=2.0, mode="nearest")
            image = layer(torch.cat([across, image[:, :, : across.shape[2], : across.shape[3]]], 1))
        return self.output(image)


def block(before: int, after: int) -> nn.Sequential:
    """Return two convolutions of 3 x 3 with batch norm."""
    return nn.Sequential(
        nn.Conv2d(before, after, 3, padding=1, bias=False),
        nn.BatchNorm2d(after),
        nn.ReLU(),
        nn.Conv2d(after, after, 3, padding=1, bias=False),
        nn.BatchNorm2d(after),
        nn.ReLU(),
    )
