"""Where an ONNX model goes another way than the network it came from."""

import numpy as np
import onnx
import torch
from torch import Tensor, nn

from torchmill.components.initialization.standardized_model import StandardizedModel
from torchmill.components.onnx_model.run import answers
from torchmill.components.onnx_model.session import open_session

NEAR = 1e-3
"""Relative difference up to which two values count as the same; what is looked for is mostly far greater."""


def first_divergence(proto: onnx.ModelProto, model: StandardizedModel, inputs: np.ndarray) -> str:
    """Run both on the same inputs and say between which layers they part.

    A layer counts as alike if anything within the graph has its values, in whatever shape: the exporter keeps no
    names, and may merge layers.

    Args:
        model: in evaluation mode, on the processor.
        inputs: as the ONNX model takes them.
    """
    layers = _outputs_of_layers(model, inputs)
    values = _inner_values(proto, next(iter(proto.graph.input)).name, inputs)
    alike = [_is_among(output, values) for _, output in layers]
    if not any(alike):
        return f"in what comes before or in the first layer, {layers[0][0]}" if layers else "in the network itself"
    last = max(place for place, same in enumerate(alike) if same)
    if last == len(layers) - 1:
        return f"behind the last layer, {layers[-1][0]}"
    return f"behind layer {layers[last][0]}, at {layers[last + 1][0]}"


def _outputs_of_layers(model: StandardizedModel, inputs: np.ndarray) -> list[tuple[str, np.ndarray]]:
    found: list[tuple[str, np.ndarray]] = []
    handles = []
    for name, layer in model.network.named_modules():
        if next(layer.children(), None) is None and name:

            def keep(_layer: nn.Module, _inputs: object, output: object, name: str = name) -> None:
                first = output[0] if isinstance(output, tuple | list) and output else output
                if isinstance(first, Tensor):
                    found.append((f"{name} ({type(_layer).__name__})", first.detach().numpy()))

            handles.append(layer.register_forward_hook(keep))
    try:
        with torch.no_grad():
            model(torch.from_numpy(inputs))
    finally:
        for handle in handles:
            handle.remove()
    return found


def _inner_values(proto: onnx.ModelProto, name: str, inputs: np.ndarray) -> list[np.ndarray]:
    wider = onnx.ModelProto()
    wider.CopyFrom(proto)
    known = {value.name for value in wider.graph.output}
    for node in wider.graph.node:
        wider.graph.output.extend(onnx.ValueInfoProto(name=one) for one in node.output if one and one not in known)
    session = open_session(wider.SerializeToString())
    return [value for value in answers(session, None, **{name: inputs}) if value.dtype == np.float32]


def _is_among(output: np.ndarray, values: list[np.ndarray]) -> bool:
    wanted = np.sort(output.ravel())
    scale = max(1e-6, float(np.abs(wanted).max()))
    return any(
        value.size == wanted.size and np.abs(np.sort(value.ravel()) - wanted).max() <= NEAR * scale for value in values
    )
