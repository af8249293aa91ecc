"""Mirror each image in every other epoch, about half of them in the first (Jordan 2024).

Random flips show an image the same way round twice in a row half of the time, and teach less.
"""

import torch
from torch import Tensor

MOVES = True
MEANING = "always 1: every image, each other epoch"
RANGES = {"strength": (1, 1)}


def change_samples(pixels: Tensor, samples: Tensor, epoch: int, seed: int, *, strength: float = 1) -> Tensor:
    first = ((samples + seed) * 2_654_435_761 >> 16) & 1  # Knuth's multiplicative hash
    mirrored = ((first + epoch) % 2).bool().to(pixels.device)
    return torch.where(mirrored.view(-1, 1, 1, 1), pixels.flip(-1), pixels)
