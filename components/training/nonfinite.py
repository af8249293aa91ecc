"""Find the first layer, weight or input that is infinite or NaN."""

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from torchmill.components.errors import UserError
from torchmill.components.initialization.build import outputs_of

LARGEST_LOGIT = 1e30
"""Differences of larger logits overflow float32."""


class NotFinite(UserError):
    """The loss or a weight became infinite or NaN."""

    @classmethod
    def in_step(cls, quantity: str, value: float, epoch: int, step: int, reason: str) -> "NotFinite":
        return cls(
            f"The {quantity} became {value} in epoch {epoch}, step {step}: {reason}.",
            "Try a smaller --train.lr, or look there for a division, a logarithm or a root.",
        )


class _Search:
    """Hooks on every layer that remember the first value that is not finite."""

    def __init__(self, network: nn.Module):
        self.finding = ""
        self.handles = []
        for name, layer in network.named_modules():
            self.handles += [
                layer.register_forward_pre_hook(lambda layer, inputs, name=name: self.before(name, layer, inputs)),
                layer.register_forward_hook(
                    lambda layer, inputs, output, name=name: self.after(name, layer, inputs, output)
                ),
            ]

    def remove_hooks(self) -> None:
        for handle in self.handles:
            handle.remove()

    def before(self, name: str, layer: nn.Module, inputs: tuple[object, ...]) -> None:
        """Look at a layer's inputs and weights."""
        if self.finding:
            return
        if kind := _first_kind(inputs):
            place = f"before layer {name} ({type(layer).__name__})" if name else "in the network"
            self.finding = f"the input {place} holds {kind}; no layer before it gave that"
            return
        for weight_name, weight in layer.named_parameters(recurse=False):
            if kind := _kind(weight):
                self.finding = (
                    f"layer {name} ({type(layer).__name__}) is the first whose weights are broken "
                    f"(its {weight_name} holds {kind}), by the update of the step before"
                )
                return

    def after(self, name: str, layer: nn.Module, inputs: tuple[object, ...], output: object) -> None:
        """Look at a layer's output."""
        if self.finding or not (kind := _first_kind(output)):
            return
        largest = max((value.detach().abs().max().item() for value in _tensors(inputs)), default=0)
        place = f"layer {name} ({type(layer).__name__})" if name else f"{type(layer).__name__}.forward"
        self.finding = f"{place} is the first to give {kind}, for inputs of up to {largest:.3g}"


def first_not_finite(network: nn.Module, again: Callable[[], Iterable[object]]) -> str:
    """Run a batch through the network again and describe the first value that is infinite or NaN.

    Args:
        network: has the weights that the loss was computed with. Only its buffers change.
        again: function that computes the outputs again, in parts that fit in memory.
    """
    search = _Search(network)
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            largest_logit = max(
                value.abs().max().item() for output in again() for value in _tensors(outputs_of(output))
            )
    finally:
        search.remove_hooks()
    if search.finding:
        return search.finding
    if largest_logit > LARGEST_LOGIT:
        return f"the network's logits go up to {largest_logit:.3g}, too large for a finite loss"
    return "the same batch gives finite logits when repeated: look for random numbers, or for state kept between steps"


def nonfinite_weights(network: nn.Module) -> str:
    """Describe the weights that the last update made infinite or NaN."""
    names = [name for name, weight in network.named_parameters() if not torch.isfinite(weight).all()]
    if not names:
        return "all weights are finite, so the network itself computes it in evaluation mode"
    return f"the update left {names[0]}{f' and {len(names) - 1} more' if names[1:] else ''} not finite"


def _tensors(values: object) -> list[Tensor]:
    return [value for value in tree_leaves(values) if isinstance(value, Tensor) and value.numel()]


def _first_kind(values: object) -> str:
    return next((kind for value in _tensors(values) if (kind := _kind(value))), "")


def _kind(value: Tensor) -> str:
    """Return ``nan``, ``inf`` or, if all values are finite, nothing."""
    if not value.is_floating_point():
        return ""
    if torch.isnan(value).any():
        return "nan"
    return "inf" if torch.isinf(value).any() else ""
