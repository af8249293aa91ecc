"""Blacken a rectangle of 2 to 33 % of some of the images (Zhong et al. 2020)."""

import math

import torch
from torch import Generator, Tensor

from torchmill.components.data.augmentation import between

MEANING = "probability"
RANGES = {"strength": (0, 1)}


def change(pixels: Tensor, rng: Generator, *, strength: float = 0.25) -> Tensor:
    count, _, height, width = pixels.shape
    area = between(0.02, 0.33, (count,), rng)
    aspect = between(math.log(0.3), math.log(1 / 0.3), (count,), rng).exp()
    sides = torch.stack([(area * aspect).sqrt(), (area / aspect).sqrt()]).clamp(max=1)  # shares of height and width
    begin = between(0, 1, (2, count), rng) * (1 - sides)
    erased = torch.rand(count, generator=rng) < strength
    rows, columns = torch.arange(height) / height, torch.arange(width) / width
    across = (rows >= begin[0, :, None]) & (rows < (begin + sides)[0, :, None])
    along = (columns >= begin[1, :, None]) & (columns < (begin + sides)[1, :, None])
    mask = across[:, None, :, None] & along[:, None, None, :] & erased[:, None, None, None]
    return pixels.masked_fill(mask.to(pixels.device), 0)
