"""An exponential moving average of a network's weights."""

import copy
from typing import Any

import torch
from torch import Tensor, nn

from torchmill.components.errors import UserError
from torchmill.components.initialization.standardized_model import StandardizedModel


class Ema:
    """A copy of a model whose weights follow the model's: average += (1 - decay) * (weights - average).

    Statistics of batch norm are averaged with the weights they belong to; whole numbers are taken over as they are.
    ``torch.optim.swa_utils`` has the same, but averages whole numbers, too, and saves no buffer that isn't persistent.
    """

    def __init__(self, model: StandardizedModel, decay: float):
        try:
            self.model = copy.deepcopy(model).requires_grad_(False)
        except RuntimeError as error:
            raise UserError(
                f"{type(model.network).__name__} cannot be averaged: {' '.join(str(error).split())}",
                "Does it keep what it has computed in an attribute? Or leave --train.ema out.",
            ) from error
        self.decay = decay
        self.updates = 0

    @torch.no_grad()
    def update(self, model: StandardizedModel) -> None:
        """Follow the model by one step; the first time, be where it is."""
        weight = 1 - self.decay if self.updates else 1.0
        torch._foreach_lerp_(list(self.model.network.parameters()), list(model.network.parameters()), weight)
        held = dict(self.model.network.named_buffers())
        for name, its in model.network.named_buffers():
            own = held.get(name)
            if own is not None and own.shape == its.shape and own.is_floating_point():
                own.copy_(torch.where(own == its, its, own.lerp(its, weight)))  # between two infinities lies a nan
            else:
                set_buffer(self.model.network, name, its)
        self.updates += 1

    def as_dict(self) -> dict[str, Any]:
        network = self.model.network
        return {
            "updates": self.updates,
            "parameters": list(network.parameters()),
            "buffers": dict(network.named_buffers()),
        }

    @torch.no_grad()
    def restore(self, state: dict[str, Any]) -> None:
        """Go on from what ``as_dict`` gave."""
        self.updates = state["updates"]
        for own, saved in zip(self.model.network.parameters(), state["parameters"], strict=True):
            own.copy_(saved)
        for name, value in state["buffers"].items():
            set_buffer(self.model.network, name, value.to(self.model.scale.device))


def set_buffer(network: nn.Module, name: str, value: Tensor) -> None:
    """Give a buffer a value: in its place, or as a new tensor where it has another size or isn't there."""
    layer, _, own = name.rpartition(".")
    buffers = network.get_submodule(layer)._buffers
    held = buffers.get(own)
    if held is not None and held.shape == value.shape:
        held.copy_(value)
    else:
        buffers[own] = value.detach().clone()
