"""Mirror some of the images, top to bottom."""

from torch import Generator, Tensor

from torchmill.components.data.augmentation import flip_some

MEANING = "probability"
RANGES = {"strength": (0, 1)}


def change(pixels: Tensor, rng: Generator, *, strength: float = 0.5) -> Tensor:
    return flip_some(pixels, strength, -2, rng)
