"""Grow a part of each image to the full size."""

import torch
from torch import Generator, Tensor

from torchmill.components.data.augmentation import between, resample

MOVES = True
MEANING = "smallest share of the area that is kept, grown to the full size"
RANGES = {"strength": (0.01, 1)}


def change(pixels: Tensor, rng: Generator, *, strength: float = 0.5) -> Tensor:
    side = between(strength, 1, (len(pixels),), rng).sqrt()
    offsets = (1 - side) * between(-1, 1, (2, len(pixels)), rng)
    zero = torch.zeros(len(pixels))
    matrix = torch.stack([torch.stack([side, zero, offsets[0]], 1), torch.stack([zero, side, offsets[1]], 1)], 1)
    return resample(pixels, matrix, "border")
