"""A multilayer perceptron for images or numbers."""

import itertools
import math
from collections.abc import Sequence

from torch import Tensor, nn

INITIALIZATION = "xavier_normal"


class MLP(nn.Module):
    """Linear layers with ReLU and dropout between them, over all values of a sample.

    Args:
        num_classes: number of outputs.
        in_features: values per sample, if samples are not images.
        in_channels: channels of the images.
        image_size: height of the images in pixels; None if samples are not images.
        image_width: width of the images; None if they are square.
        hidden: widths of the hidden layers.
        dropout: dropout rate after each hidden layer.
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
        """Return outputs (N, num_classes) for images (N, C, H, W) or features (N, F)."""
        return self.layers(inputs)
