"""Turn, shear, move and grow each image around its centre; the pixels that come in are black."""

from torch import Generator, Tensor

from torchmill.components.data.augmentation import move

MOVES = True
MEANING = "share of the size that it moves and grows by; turns and shears by 90 degrees times it"
RANGES = {"strength": (0, 0.9)}


def change(pixels: Tensor, rng: Generator, *, strength: float = 0.1) -> Tensor:
    return move(pixels, rng, degrees=90 * strength, shear_degrees=90 * strength, by=strength, growth=strength)
