"""What is left of a score when images are a little different: moved, noisy, brighter, paler."""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad

from torchmill.components.data.samples import Samples

Change = Callable[[Tensor, torch.Generator], Tensor]
"""From pixels 0…255 as floats (N, C, H, W) to others, which may be outside of that."""


def shift(pixels: int) -> Change:
    """Move each image by so many pixels in one of the eight directions; its edge is repeated."""

    def change(images_NCHW: Tensor, chance: torch.Generator) -> Tensor:
        height, width = images_NCHW.shape[2:]
        wide = pad(images_NCHW, (pixels,) * 4, mode="replicate")
        ways = torch.tensor([(y, x) for y in (-1, 0, 1) for x in (-1, 0, 1) if (y, x) != (0, 0)])
        chosen = (1 + ways[torch.randint(8, (len(wide),), generator=chance)]) * pixels
        moved = [image[:, y : y + height, x : x + width] for image, (y, x) in zip(wide, chosen.tolist(), strict=True)]
        return torch.stack(moved)

    return change


def noise(deviation: float) -> Change:
    """Add Gaussian noise to each value; its deviation is a share of the range of pixels."""
    return lambda images, chance: images + 255 * deviation * torch.randn(images.shape, generator=chance)


def brightness(factor: float) -> Change:
    """Multiply all values."""
    return lambda images, _: images * factor


def contrast(factor: float) -> Change:
    """Bring values nearer to their image's mean, or farther from it."""

    def change(images: Tensor, _: torch.Generator) -> Tensor:
        mean = images.mean((1, 2, 3), keepdim=True)
        return mean + factor * (images - mean)

    return change


CHANGES: dict[str, Change] = {
    "moved by 1 pixel": shift(1),
    "moved by 2 pixels": shift(2),
    "noise, 5 % of the range": noise(0.05),
    "noise, 15 % of the range": noise(0.15),
    "darker, × 0.6": brightness(0.6),
    "brighter, × 1.4": brightness(1.4),
    "half the contrast": contrast(0.5),
    "contrast × 1.5": contrast(1.5),
}

FEWEST, MOST, FEWEST_LARGE = 500, 2000, 100
LARGE = 96 * 96
"""Pixels from which on images are large: fewer of them are changed, as their networks take longer."""


def some(test: Samples) -> Samples:
    """Choose test samples, always the same: so many that all changes together cost about one pass over the split."""
    height, width = test.inputs.shape[2:]
    fewest = max(FEWEST_LARGE, min(FEWEST, FEWEST * LARGE // (height * width)))
    count = min(len(test), max(fewest, min(MOST, len(test) // len(CHANGES))))
    chosen = np.sort(np.random.default_rng(0).permutation(len(test))[:count])
    return Samples(*test.take(torch.from_numpy(chosen)))


def changed(samples: Samples, name: str) -> Samples:
    """Give images as a change of that name leaves them, uint8 as they were."""
    chance = torch.Generator().manual_seed(0)
    images = CHANGES[name](samples.inputs.float(), chance)
    return Samples(images.round().clamp(0, 255).to(samples.inputs.dtype), samples.labels)
