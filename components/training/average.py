"""An exponential moving average of a network's weights."""

import copy
from collections.abc import Iterator

import torch
from torch import Tensor

from components.pixels import PixelClassifier


class Average:
    """A copy of a model whose weights follow the model's: average += (1 - decay) * (weights - average).

    Statistics of batch norm are averaged with the weights they belong to; whole numbers are taken over as they are.
    ``torch.optim.swa_utils`` has the same, but averages whole numbers, too, and saves no buffer that isn't persistent.
    """

    def __init__(self, model: PixelClassifier, decay: float):
        self.model = copy.deepcopy(model).requires_grad_(False)
        self.decay = decay
        self.updates = 0

    @torch.no_grad()
    def update(self, model: PixelClassifier) -> None:
        """Follow the model by one step; the first time, be where it is."""
        weight = 1 - self.decay if self.updates else 1.0
        pairs = list(zip(_tensors(self.model), _tensors(model), strict=True))
        floating = [(own, its) for own, its in pairs if own.is_floating_point() and own.shape == its.shape]
        torch._foreach_lerp_([own for own, _ in floating], [its for _, its in floating], weight)
        for own, its in pairs:
            if not own.is_floating_point():
                own.copy_(its)
        self.updates += 1

    def as_dict(self) -> dict[str, object]:
        return {"updates": self.updates, "tensors": list(_tensors(self.model))}

    @torch.no_grad()
    def restore(self, state: dict) -> None:
        """Go on from what ``as_dict`` gave."""
        self.updates = state["updates"]
        for own, saved in zip(_tensors(self.model), state["tensors"], strict=True):
            own.copy_(saved)


def _tensors(model: PixelClassifier) -> Iterator[Tensor]:
    yield from model.network.parameters()
    yield from model.network.buffers()
