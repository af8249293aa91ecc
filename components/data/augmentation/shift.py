"""Move each image by some pixels each way; the pixels that come in are black."""

import torch
from torch import Generator, Tensor
from torch.nn.functional import pad

MOVES = True
MEANING = "pixels, each way"
RANGES = {"strength": (0, 1000)}


def change(pixels: Tensor, rng: Generator, *, strength: float = 2) -> Tensor:
    most = round(strength)
    count, channels, height, width = pixels.shape
    device = pixels.device
    offsets = torch.randint(0, 2 * most + 1, (2, count, 1, 1, 1), generator=rng).to(device)
    sample = torch.arange(count, device=device).view(-1, 1, 1, 1)
    channel = torch.arange(channels, device=device).view(-1, 1, 1)
    row = offsets[0] + torch.arange(height, device=device).view(-1, 1)
    column = offsets[1] + torch.arange(width, device=device)
    return pad(pixels, (most,) * 4)[sample, channel, row, column]
