"""From raw pixels to what a network is trained on, written once for training, evaluation and export."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class PixelClassifier(nn.Module):
    """A network with the normalisation of its data in front.

    Takes uint8 pixels (N, C, H, W) and gives the network's logits. Training, evaluation and the
    exported model all go through it, so that what is deployed cannot normalise otherwise than what was trained.

    Args:
        network: takes normalised floats (N, C, H, W).
        mean: per channel, of pixels scaled to 0…1.
        std: likewise; a channel without any spread is only centred.
        channels_last: hand images over in the channels-last memory format.
    """

    offset: Tensor
    scale: Tensor

    def __init__(self, network: nn.Module, mean: Sequence[float], std: Sequence[float], channels_last: bool = False):
        super().__init__()
        self.network = network
        spread = torch.tensor([value or 1.0 for value in std], dtype=torch.float64)
        offset = torch.tensor(mean, dtype=torch.float64) * 255
        self.register_buffer("offset", offset.float().view(1, -1, 1, 1))
        self.register_buffer("scale", (1 / (spread * 255)).float().view(1, -1, 1, 1))
        self.memory_format = torch.channels_last if channels_last else torch.preserve_format

    def forward(self, pixels: Tensor) -> Tensor:
        images = pixels.to(self.scale.dtype, memory_format=self.memory_format)
        return self.network((images - self.offset) * self.scale)
