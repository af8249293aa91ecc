"""RandAugment (Cubuk et al. 2020): two random changes of one magnitude for each image."""

from torch import Generator, Tensor
from torchvision.transforms import v2

from torchmill.components.data.augmentation import one_by_one

MEANING = "magnitude of 0 to 30"
RANGES = {"strength": (0, 30)}
CHANNELS = (1, 3)


def change(pixels: Tensor, rng: Generator, *, strength: float = 9) -> Tensor:
    return one_by_one(v2.RandAugment(magnitude=round(strength)), pixels, rng)
