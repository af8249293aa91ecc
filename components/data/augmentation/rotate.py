"""Turn each image around its centre; the corners that come in are black."""

from torch import Generator, Tensor

from torchmill.components.data.augmentation import move

MOVES = True
MEANING = "degrees, each way"
RANGES = {"strength": (0, 180)}


def change(pixels: Tensor, rng: Generator, *, strength: float = 15) -> Tensor:
    return move(pixels, rng, degrees=strength)
