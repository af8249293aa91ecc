"""Where a loss that is no number comes from."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from torchmill.components.initialization.build import outputs_of
from torchmill.components.initialization.standardized_model import StandardizedModel

LARGEST_LOGIT = 1e30  # differences of larger ones overflow float32


def first_not_finite(model: StandardizedModel, batch: Sequence[Tensor]) -> str:
    """Run a batch through the model and say which input, weight or layer is first infinite or undefined.

    Args:
        model: with the weights with which the loss was computed; left as it is but for its buffers.
        batch: inputs, in parts that the memory takes.
    """
    found: list[str] = []
    handles = []

    def look_before(name: str, layer: nn.Module, inputs: tuple[object, ...]) -> None:
        bad = [kind for value in _tensors(inputs) if (kind := _what(value))]
        if bad and not found:
            where = f"before layer {name} ({type(layer).__name__})" if name else "in the network"
            found.append(f"the input {where} holds {bad[0]}; no layer before it gave that")
        if not found:
            weights = [(own, _what(value)) for own, value in layer.named_parameters(recurse=False)]
            broken = [f"its {own} holds {kind}" for own, kind in weights if kind]
            if broken:
                found.append(
                    f"layer {name} ({type(layer).__name__}) is the first whose weights are broken ({broken[0]}), "
                    "by the update of the step before"
                )

    def look_after(name: str, layer: nn.Module, inputs: tuple[object, ...], output: object) -> None:
        kind = next((kind for value in _tensors(output) if (kind := _what(value))), "")
        if kind and not found:
            largest = max((value.detach().abs().max().item() for value in _tensors(inputs)), default=0)
            where = f"layer {name} ({type(layer).__name__})" if name else f"{type(layer).__name__}.forward"
            found.append(f"{where} is the first to give {kind}, for inputs of up to {largest:.3g}")

    for name, layer in model.network.named_modules():
        handles.append(
            layer.register_forward_pre_hook(lambda module, inputs, name=name: look_before(name, module, inputs))
        )
        handles.append(
            layer.register_forward_hook(
                lambda module, inputs, output, name=name: look_after(name, module, inputs, output)
            )
        )
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            largest_logit = max(output.abs().max().item() for inputs in batch for output in outputs_of(model(inputs)))
    finally:
        for handle in handles:
            handle.remove()
    if found:
        return found[0]
    if largest_logit > LARGEST_LOGIT:
        return f"the network's logits go up to {largest_logit:.3g}, beyond which their loss is not finite"
    return "run again, the same batch gives finite logits: look for chance, or for what the network keeps between steps"


def _tensors(values: object) -> list[Tensor]:
    return [value for value in tree_leaves(values) if isinstance(value, Tensor) and value.numel()]


def _what(value: Tensor) -> str:
    if not value.is_floating_point():
        return ""
    if torch.isnan(value).any():
        return "nan"
    return "inf" if torch.isinf(value).any() else ""
