"""Pre- and postprocessing around a network in its ONNX file, in plain operators that every runtime has."""

from collections.abc import Sequence

import onnx
import onnx.compose
import onnx.inliner

from torchmill.components.onnx_model import names
from torchmill.components.refs import DataRef

OPSET = 20  # 23 and later break masked attention in onnxruntime


def add_pre_and_postprocessing(core: onnx.ModelProto, data: DataRef, temperature: float) -> onnx.ModelProto:
    """Add the preparation of inputs before a network, and probabilities and labels behind it.

    Args:
        core: model of training's inputs: uint8 pixels (batch, C, H, W), token ids (batch, length) or numbers.
        temperature: divisor of the logits before they become probabilities (Guo et al. 2017).

    Returns:
        A model that also takes images of any size, in either layout, and texts of any length. Its first output is the
        network's own; ``probabilities`` and ``labels`` follow if the task has them.
    """
    model = onnx.ModelProto()
    model.CopyFrom(core)
    if before := data.field.preprocessing(data.shape, data.vocabulary_size, data.rules):
        _rename(model.graph, data.field.onnx_input, names.PREPARED)
        first = plain(before, names.BEFORE, [names.PREPARED])
        del model.graph.input[:]
        model.graph.input.extend(first.graph.input)
        _insert(model, first, at=0)
        model.graph.value_info.extend(first.graph.output)
    if behind := data.task_object.postprocessing(data.classes, temperature):
        last = plain(behind, names.BEHIND, [names.PROBABILITIES, names.LABELS])
        for output in last.graph.output:
            for side in output.type.tensor_type.shape.dim[1:]:
                side.dim_value = len(data.classes)
        _insert(model, last, at=len(model.graph.node))
        model.graph.output.extend(last.graph.output)
    return model


def plain(model: onnx.ModelProto, prefix: str, outputs: Sequence[str]) -> onnx.ModelProto:
    """Inline a model's functions, and prefix its inner names so that they can't clash with the network's.

    Args:
        outputs: new names of the model's outputs.
    """
    inlined = onnx.inliner.inline_local_functions(model)
    plain = onnx.compose.add_prefix(inlined, prefix, rename_inputs=False)
    for output, name in zip(plain.graph.output, outputs, strict=True):
        plain.graph.node.append(onnx.helper.make_node("Identity", [output.name], [name], name=f"{prefix}{name}"))
        output.name = name
    return plain


def _insert(model: onnx.ModelProto, piece: onnx.ModelProto, at: int) -> None:
    """Insert the nodes of ``piece`` into ``model``, before node number ``at``."""
    nodes = list(model.graph.node)
    del model.graph.node[:]
    model.graph.node.extend([*nodes[:at], *piece.graph.node, *nodes[at:]])
    model.graph.initializer.extend(piece.graph.initializer)
    model.graph.value_info.extend(piece.graph.value_info)


def _rename(graph: onnx.GraphProto, name: str, new: str) -> None:
    """Rename an input wherever nodes use it, in branches of the graph as well."""
    for node in graph.node:
        for number, used in enumerate(node.input):
            if used == name:
                node.input[number] = new
        for attribute in node.attribute:
            for inner in (*attribute.graphs, *([attribute.g] if attribute.HasField("g") else [])):
                _rename(inner, name, new)
