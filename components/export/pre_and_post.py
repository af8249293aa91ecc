"""What stands before and behind a network in the ONNX file: it takes what a deployer has, and gives what one wants.

Plain operators alone, which every runtime has: of ONNX's own Resize, some know no antialias.
"""

from collections.abc import Sequence

import onnx
import onnx.compose
import onnx.inliner

from torchmill.components.onnx_model import names
from torchmill.components.refs import DataRef

# Opset 23 and later break masked attention in onnxruntime.
OPSET = 20


def add_pre_and_postprocessing(core: onnx.ModelProto, data: DataRef, temperature: float) -> onnx.ModelProto:
    """Put the preparation of inputs before a network and the meaning of its outputs behind it.

    Args:
        core: takes what training took: uint8 pixels (batch, C, H, W), token ids (batch, length), numbers.
        temperature: by which logits are divided before they become probabilities (Guo et al. 2017).

    Returns:
        A model of the same input, but for images of any height and width, in either layout, and for texts of any
        length; its first output is the network's own, the others are ``probabilities`` and ``labels``.
    """
    model = onnx.ModelProto()
    model.CopyFrom(core)
    if before := data.field.preprocessing(data.shape, data.vocabulary_size):
        _rename(model.graph, data.field.onnx_input, names.PREPARED)
        first = plain(before, names.BEFORE, [names.PREPARED])
        del model.graph.input[:]
        model.graph.input.extend(first.graph.input)
        _put(model, first, at=0)
        model.graph.value_info.extend(first.graph.output)
    if behind := data.task_object.postprocessing(data.classes, temperature):
        last = plain(behind, names.BEHIND, [names.PROBABILITIES, names.LABELS])
        for output in last.graph.output:
            for side in output.type.tensor_type.shape.dim[1:]:
                side.dim_value = len(data.classes)
        _put(model, last, at=len(model.graph.node))
        model.graph.output.extend(last.graph.output)
    return model


def plain(model: onnx.ModelProto, prefix: str, outputs: Sequence[str]) -> onnx.ModelProto:
    """Write functions out where they are called, and call what is within otherwise than anything in a network.

    Args:
        outputs: how to call what the model gives.
    """
    inlined = onnx.inliner.inline_local_functions(model)
    plain = onnx.compose.add_prefix(inlined, prefix, rename_inputs=False)
    for output, name in zip(plain.graph.output, outputs, strict=True):
        plain.graph.node.append(onnx.helper.make_node("Identity", [output.name], [name], name=f"{prefix}{name}"))
        output.name = name
    return plain


def _put(model: onnx.ModelProto, other: onnx.ModelProto, at: int) -> None:
    """Put the nodes of another model among a model's."""
    nodes = list(model.graph.node)
    del model.graph.node[:]
    model.graph.node.extend([*nodes[:at], *other.graph.node, *nodes[at:]])
    model.graph.initializer.extend(other.graph.initializer)
    model.graph.value_info.extend(other.graph.value_info)


def _rename(graph: onnx.GraphProto, name: str, new: str) -> None:
    """Call an input otherwise, in branches of the graph as well."""
    for node in graph.node:
        for place, one in enumerate(node.input):
            if one == name:
                node.input[place] = new
        for attribute in node.attribute:
            for inner in (*attribute.graphs, *([attribute.g] if attribute.HasField("g") else [])):
                _rename(inner, name, new)
