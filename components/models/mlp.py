"""A multilayer perceptron: linear layers with ReLU between them, for images or for numbers."""

import itertools
import math
from collections.abc import Sequence

from torch import Tensor, nn


class MLP(nn.Module):
    """Linear layers over all values of a sample, in one row.

    Args:
        num_classes: width of the output.
        in_features: values of a sample that is no image.
        in_channels: channels of images.
        image_size: height of images, pixels; None for what is no image.
        image_width: where that is another than the height.
        hidden: widths of the layers between.
        dropout: behind each of them, in training.
    """

    def __init__(
        self,
        num_classes: int,
        in_features: int = 1,
        in_channels: int = 1,
        image_size: int | None = None,
        image_width: int | None = None,
        hidden: Sequence[int] = (256, 128),
        dropout: float = 0.1,
    ):
        super().__init__()
        pixels = None if image_size is None else image_size * (image_width or image_size)
        widths = [in_features if pixels is None else in_channels * pixels, *hidden]
        if min(widths) < 1 or not math.isfinite(sum(widths)):
            raise ValueError(f"layers of widths {widths}")
        layers: list[nn.Module] = [nn.Flatten()]
        for before, after in itertools.pairwise(widths):
            layers += [nn.Linear(before, after), nn.ReLU(), nn.Dropout(dropout)]
        self.layers = nn.Sequential(*layers, nn.Linear(widths[-1], num_classes))

    def forward(self, inputs: Tensor) -> Tensor:
        """Give (N, num_classes) for images (N, C, H, W) or features (N, F)."""
        return self.layers(inputs)
