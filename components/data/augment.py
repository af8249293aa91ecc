"""Random changes to training images, a function of seed, epoch and batch alone."""

import torch
from torch import Tensor
from torch.nn.functional import pad

from components.config import Augmentation

SHIFT = 2  # pixels


def augment(pixels: Tensor, kind: Augmentation, seed: int, epoch: int, batch: int) -> Tensor:
    """Change a batch of images (uint8, NCHW); the same seed, epoch and batch give the same change.

    A generator of its own draws it, so that a training that goes on in the middle of an epoch needs no replay.
    """
    if kind == "none":
        return pixels
    rng = torch.Generator().manual_seed(((seed * 1_000_003 + epoch) * 1_000_003 + batch) % 2**63)
    count, channels, height, width = pixels.shape
    device = pixels.device
    offsets = torch.randint(0, 2 * SHIFT + 1, (2, count, 1, 1, 1), generator=rng).to(device)
    sample = torch.arange(count, device=device).view(-1, 1, 1, 1)
    channel = torch.arange(channels, device=device).view(-1, 1, 1)
    row = offsets[0] + torch.arange(height, device=device).view(-1, 1)
    column = offsets[1] + torch.arange(width, device=device)
    return pad(pixels, (SHIFT,) * 4)[sample, channel, row, column]
