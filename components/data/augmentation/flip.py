"""Mirror some of the images, left to right."""

from torch import Generator, Tensor

from torchmill.components.data.augmentation import flip_some

MOVES = True
MEANING = "probability"
RANGES = {"strength": (0, 1)}


def change(pixels: Tensor, rng: Generator, *, strength: float = 0.5) -> Tensor:
    return flip_some(pixels, strength, -1, rng)
