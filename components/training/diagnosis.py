"""Where a loss that is no number comes from."""

import torch
from torch import Tensor, nn

from components.pixels import PixelClassifier


def first_not_finite(model: PixelClassifier, pixels: Tensor) -> str:
    """Run a batch through the model and say which input, weight or layer is first infinite or undefined.

    Args:
        model: with the weights with which the loss was computed; left as it is but for its buffers.
        pixels: the batch.
    """
    found: list[str] = []
    handles = []

    def look_before(name: str, layer: nn.Module, inputs: tuple[object, ...]) -> None:
        bad = [kind for value in inputs if isinstance(value, Tensor) and (kind := _what(value))]
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
        kind = _what(output) if isinstance(output, Tensor) else ""
        if kind and not found:
            largest = max(
                (value.detach().abs().max().item() for value in inputs if isinstance(value, Tensor)), default=0
            )
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
            logits = model(pixels)
    finally:
        for handle in handles:
            handle.remove()
    if found:
        return found[0]
    return (
        f"the network's logits go up to {logits.abs().max().item():.3g}, beyond which their cross-entropy is not finite"
    )


def _what(value: Tensor) -> str:
    if not value.is_floating_point():
        return ""
    if torch.isnan(value).any():
        return "nan"
    return "inf" if torch.isinf(value).any() else ""
