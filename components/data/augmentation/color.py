"""Change brightness and contrast of each image, and the saturation of RGB images, by factors around 1."""

import torch
from torch import Generator, Tensor

from torchmill.components.data.augmentation import as_pixels, between

MEANING = "change of brightness and contrast, and of saturation in colour images"
RANGES = {"strength": (0, 1)}


def change(pixels: Tensor, rng: Generator, *, strength: float = 0.3) -> Tensor:
    factors = between(1 - strength, 1 + strength, (3, len(pixels), 1, 1, 1), rng).to(pixels.device)
    images = pixels.float() * factors[0]
    if pixels.shape[1] == 3:
        weights = torch.tensor([0.299, 0.587, 0.114], device=pixels.device).view(1, 3, 1, 1)  # ITU-R BT.601
        images = (images * weights).sum(1, keepdim=True).lerp(images, factors[2])
    return as_pixels(images.mean((1, 2, 3), keepdim=True).lerp(images, factors[1]))
