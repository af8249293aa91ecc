"""Blur each image by a Gaussian of random width."""

from torch import Generator, Tensor
from torchvision.transforms import v2

from torchmill.components.data.augmentation import one_by_one

MEANING = "largest deviation, pixels"
RANGES = {"strength": (0.1, 100)}


def change(pixels: Tensor, rng: Generator, *, strength: float = 1.0) -> Tensor:
    height, width = pixels.shape[2:]
    kernel = min(5, height - 1 + height % 2, width - 1 + width % 2)  # odd
    return one_by_one(v2.GaussianBlur(kernel, (0.1, strength)), pixels, rng)
