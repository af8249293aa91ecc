"""The first layer at which an ONNX model differs from its network."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx
import torch
from torch import Tensor, nn

from torchmill.components.initialization.standardized_model import StandardizedModel
from torchmill.components.onnx_model.proto import open_changed, read_without_weights
from torchmill.components.onnx_model.run import answers

NEAR = 1e-3
"""Largest relative difference of two equal values; real faults are mostly far greater."""


def first_divergence(
    file: Path, model: StandardizedModel, inputs: np.ndarray, taken: Mapping[str, np.ndarray] | None = None
) -> str:
    """Run both on the same inputs and return the layers between which they part, in words.

    A layer counts as equal if any tensor of the graph has the same values, in any shape: the exporter keeps no names,
    and may merge layers.

    Args:
        model: the network in eval mode, on the CPU.
        inputs: inputs for ``model``.
        taken: the same as the ONNX model takes them, by name; None if it takes them as they are.
    """
    layers = _outputs_of_layers(model, inputs)
    values = _inner_values(file, inputs if taken is None else taken)
    equal = [_is_among(output, values) for _, output in layers]
    if not any(equal):
        return f"in what comes before or in the first layer, {layers[0][0]}" if layers else "in the network itself"
    last = max(number for number, same in enumerate(equal) if same)
    if last == len(layers) - 1:
        return f"behind the last layer, {layers[-1][0]}"
    return f"behind layer {layers[last][0]}, at {layers[last + 1][0]}"


def _outputs_of_layers(model: StandardizedModel, inputs: np.ndarray) -> list[tuple[str, np.ndarray]]:
    layers: list[tuple[str, np.ndarray]] = []
    handles = []
    for name, layer in model.network.named_modules():
        if next(layer.children(), None) is None and name:

            def keep(_layer: nn.Module, _inputs: object, output: object, name: str = name) -> None:
                first = output[0] if isinstance(output, tuple | list) and output else output
                if isinstance(first, Tensor):
                    layers.append((f"{name} ({type(_layer).__name__})", first.detach().numpy()))

            handles.append(layer.register_forward_hook(keep))
    try:
        with torch.no_grad():
            model(torch.from_numpy(inputs))
    finally:
        for handle in handles:
            handle.remove()
    return layers


def _inner_values(file: Path, inputs: np.ndarray | Mapping[str, np.ndarray]) -> list[np.ndarray]:
    wider = read_without_weights(file)
    by_name = {wider.graph.input[0].name: inputs} if isinstance(inputs, np.ndarray) else inputs
    outputs = {value.name for value in wider.graph.output}
    for node in wider.graph.node:
        inner = [value for value in node.output if value and value not in outputs]
        wider.graph.output.extend(onnx.ValueInfoProto(name=value) for value in inner)
    session = open_changed(wider, file)
    return [value for value in answers(session, None, **by_name) if value.dtype == np.float32]


def _is_among(output: np.ndarray, values: list[np.ndarray]) -> bool:
    expected = np.sort(output.ravel())
    scale = max(1e-6, float(np.abs(expected).max()))
    return any(
        value.size == expected.size and np.abs(np.sort(value.ravel()) - expected).max() <= NEAR * scale
        for value in values
    )
