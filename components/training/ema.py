"""Exponential moving average (EMA) of a network's weights."""

import copy
from typing import Any

import torch
from torch import Tensor, nn

from torchmill.components.errors import UserError
from torchmill.components.initialization.fields_model import FieldsModel
from torchmill.components.initialization.standardized_model import StandardizedModel


class Ema:
    """A copy of a model whose weights follow the model's: average += (1 - decay) * (weights - average).

    Floating-point buffers, for example batch norm's statistics, are averaged too; integer buffers are copied.
    ``torch.optim.swa_utils`` averages integers as well, and doesn't save buffers that are not persistent.
    """

    def __init__(self, model: StandardizedModel | FieldsModel, decay: float):
        try:
            self.model = copy.deepcopy(model).requires_grad_(False)
        except RuntimeError as error:
            raise UserError(
                f"{type(model.network).__name__} cannot be averaged: {' '.join(str(error).split())}",
                "Does it keep a computed tensor in an attribute? Or leave --train.ema out.",
            ) from error
        self.decay = decay
        self.updates = 0

    @torch.no_grad()
    def update(self, model: StandardizedModel | FieldsModel) -> None:
        """Move the average towards the model's weights; the first update copies them."""
        weight = 1 - self.decay if self.updates else 1.0
        torch._foreach_lerp_(list(self.model.network.parameters()), list(model.network.parameters()), weight)
        averages = dict(self.model.network.named_buffers())
        for name, value in model.network.named_buffers():
            average = averages.get(name)
            if average is not None and average.shape == value.shape and average.is_floating_point():
                # Keep equal values as they are: interpolating between two infinities would give NaN.
                average.copy_(torch.where(average == value, value, average.lerp(value, weight)))
            else:
                set_buffer(self.model.network, name, value)
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
        """Load the state that ``as_dict`` returned."""
        self.updates = state["updates"]
        for average, saved in zip(self.model.network.parameters(), state["parameters"], strict=True):
            average.copy_(saved)
        for name, value in state["buffers"].items():
            set_buffer(self.model.network, name, value.to(next(self.model.parameters()).device))


def set_buffer(network: nn.Module, name: str, value: Tensor) -> None:
    """Write a buffer in place, or replace it by a copy if it is missing or has another shape."""
    layer, _, buffer_name = name.rpartition(".")
    buffers = network.get_submodule(layer)._buffers
    buffer = buffers.get(buffer_name)
    if buffer is not None and buffer.shape == value.shape:
        buffer.copy_(value)
    else:
        buffers[buffer_name] = value.detach().clone()
