"""Pre- and postprocessing around a network in its ONNX file, in plain operators that every runtime has."""

import functools
from collections.abc import Sequence

import onnx
import onnx.inliner
import onnx_ir as ir
from torch import nn

from torchmill.components.data.fetch import read_columns
from torchmill.components.export.tidy import tidied
from torchmill.components.initialization.standardized_model import StandardizedModel
from torchmill.components.onnx_graph.pictures import standardized
from torchmill.components.onnx_model import names
from torchmill.components.refs import DataRef

OPSET = 20  # 23 and later break masked attention in onnxruntime


def add_pre_and_postprocessing(core: ir.Model, data: DataRef, temperature: float) -> ir.Model:
    """Add the preparation of inputs before a network, and probabilities and labels behind it.

    Args:
        core: model of prepared inputs: standardised pixels (batch, C, H, W), token ids (batch, length) or numbers. It
            becomes the result.
        temperature: divisor of the logits before they become probabilities (Guo et al. 2017).

    Returns:
        A model that takes images of any size, in either layout, and texts of any length. Its first output is the
        network's own; those of the task follow, if it has some.
    """
    if data.field.is_picture:
        module = StandardizedModel.of(nn.Identity(), data)
        piece = standardized(module.offset.numpy(), module.scale.numpy()).to_model_proto()
        _insert_before(core.graph, plain(piece, names.STANDARDIZE, [str(core.graph.inputs[0].name)]))
    if before := data.field.preprocessing(data.shape, data.vocabulary_size, data.rules, read_columns(data)):
        _insert_before(core.graph, plain(before, names.BEFORE, [names.PREPARED]))
    if behind := data.task_object.postprocessing(data.classes, temperature):
        _append(core.graph, plain(behind, names.BEHIND, names.ANSWERS), len(data.classes))
    return core


def plain(piece: onnx.ModelProto, prefix: str, outputs: Sequence[str]) -> ir.Model:
    """Inline a model's functions, and prefix its inner names so that they can't clash with the network's.

    Args:
        outputs: new names of the model's outputs; more than it has are of no account.
    """
    model = ir.from_proto(onnx.load_from_string(_inlined(piece.SerializeToString(deterministic=True))))
    nodes = list(model.graph.all_nodes())
    inner = [output for node in nodes for output in node.outputs]
    for value in (*inner, *list(model.graph.initializers.values())):
        value.name = f"{prefix}{value.name}"
    for node in nodes:
        node.name = f"{prefix}{node.name or node.op_type}"
    for output, name in zip(model.graph.outputs, outputs, strict=False):
        output.name = name
    return model


@functools.lru_cache(16)
def _inlined(piece: bytes) -> bytes:
    """Return a model with its functions inlined and its constants folded.

    The preparation of pictures takes half a second, and models in float32, int8 and float16 share it.
    """
    inlined = onnx.inliner.inline_local_functions(onnx.load_from_string(piece))
    return ir.to_proto(tidied(ir.from_proto(inlined))).SerializeToString()


def _insert_before(graph: ir.Graph, piece: ir.Model) -> None:
    """Prepare the input of a graph by another graph."""
    (entry,), (result,) = graph.inputs, piece.graph.outputs
    taken = list(piece.graph.inputs)
    for value in taken:
        if value.shape is None:
            value.shape = entry.shape
    result.type, result.shape = entry.type, entry.shape
    entry.replace_all_uses_with(result)
    first = graph[0]
    nodes = _released(piece.graph, graph)
    graph.insert_before(first, nodes)
    graph.inputs[:] = taken


def _append(graph: ir.Graph, piece: ir.Model, columns: int) -> None:
    """Add the outputs of ``piece``, which takes the output of a graph."""
    (entry,), (source,) = piece.graph.inputs, graph.outputs
    entry.replace_all_uses_with(source)
    results = list(piece.graph.outputs)
    for result in results:
        if result.shape is not None and len(result.shape) == 2:
            result.shape = ir.Shape([source.shape[0] if source.shape else "batch", columns])
    graph.extend(_released(piece.graph, graph))
    graph.outputs.extend(results)


def _released(piece: ir.Graph, graph: ir.Graph) -> list[ir.Node]:
    """Move the initializers of one graph to another, and return its nodes, which belong to none then."""
    piece.outputs.clear()
    piece.inputs.clear()
    nodes = list(piece)
    piece.remove(nodes)
    for name, value in list(piece.initializers.items()):
        del piece.initializers[name]
        graph.register_initializer(value)
    return nodes
