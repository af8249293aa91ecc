"""TrivialAugment (Müller & Hutter 2021): one random change of random magnitude for each image."""

from torch import Generator, Tensor
from torchvision.transforms import v2

from torchmill.components.data.augmentation import one_by_one

MEANING = "bins of magnitude"
RANGES = {"strength": (2, 100)}
CHANNELS = (1, 3)


def change(pixels: Tensor, rng: Generator, *, strength: float = 31) -> Tensor:
    return one_by_one(v2.TrivialAugmentWide(round(strength)), pixels, rng)
