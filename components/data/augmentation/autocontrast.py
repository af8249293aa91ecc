"""Stretch the contrast of some of the images to the full range."""

from torch import Generator, Tensor
from torchvision.transforms import v2

from torchmill.components.data.augmentation import one_by_one

MEANING = "probability"
RANGES = {"strength": (0, 1)}
CHANNELS = (1, 3)


def change(pixels: Tensor, rng: Generator, *, strength: float = 0.5) -> Tensor:
    return one_by_one(v2.RandomAutocontrast(strength), pixels, rng)
