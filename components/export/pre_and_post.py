"""What stands before and behind a network in the ONNX file: it takes what a deployer has, and gives what one wants.

Plain operators alone, which every runtime has: of ONNX's own Resize, some know no antialias.
"""

from collections.abc import Sequence

import onnx
import onnx.compose
import onnx.inliner
from onnxscript import BOOL, FLOAT, INT64, STRING, UINT8, OnnxFunction, script
from onnxscript import opset20 as op

from torchmill.components.refs import PADDING, DataRef, Kind, Task

# Opset 23 and later break masked attention in onnxruntime.
OPSET = 20
INPUTS: dict[Kind, str] = {"images": "pixels", "tokens": "tokens", "numbers": "features"}
OUTPUTS: dict[Task, str] = {"classification": "logits", "multilabel": "logits", "regression": "values"}
PREPARED = "prepared"
"""What the network itself gets, within the graph."""
BEFORE, BEHIND = AROUND = ("prepare.", "answer.")
"""By which names of nodes begin that are not the network's."""

FLOAT_TYPE, UINT8_TYPE, INT32_TYPE = (
    onnx.TensorProto.FLOAT,
    onnx.TensorProto.UINT8,
    onnx.TensorProto.INT32,
)
GREY_SHARES = onnx.helper.make_tensor("shares", INT32_TYPE, (1, 3, 1, 1), [19595, 38470, 7471])
"""Of red, green and blue in Pillow's L, in 65,536ths."""


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
    if before := preparation(data):
        _rename(model.graph, INPUTS[data.kind], PREPARED)
        first = plain(before, BEFORE, [PREPARED])
        del model.graph.input[:]
        model.graph.input.extend(first.graph.input)
        _put(model, first, at=0)
        model.graph.value_info.extend(first.graph.output)
    if behind := meaning(data, temperature):
        last = plain(behind, BEHIND, ["probabilities", "labels"])
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


def preparation(data: DataRef) -> onnx.ModelProto | None:
    """Give a model from what a deployer has to what training took; none where that is the same."""
    match data.kind:
        case "images":
            return pictures(*data.shape).to_model_proto()
        case "tokens":
            return texts(data.vocabulary_size, *data.shape).to_model_proto()
        case _:
            return None


def meaning(data: DataRef, temperature: float) -> onnx.ModelProto | None:
    """Give a model from a network's outputs to what they mean; none where they are their own meaning."""
    match data.task:
        case "classification":
            return classes(data.classes, temperature).to_model_proto()
        case "multilabel":
            return yes_and_no(temperature).to_model_proto()
        case _:
            return None


@script(default_opset=op)
def triangles(size, used, wanted):
    """Weights (size, wanted) by which pixels along one side become those that are wanted: a triangle around each.

    Of ``size`` pixels the middle ``used`` are scaled; their neighbours beyond count at the rim (Pillow, Resample.c).
    """
    zero, one, half = op.Constant(value_float=0.0), op.Constant(value_float=1.0), op.Constant(value_float=0.5)
    step = op.Div(used, wanted)
    centres = op.Add(op.Mul(op.Add(op.Range(zero, wanted, one), half), step), op.Mul(op.Sub(size, used), half))
    sources = op.Add(op.Range(zero, size, one), half)
    distance = op.Abs(op.Sub(op.Unsqueeze(sources, [1]), op.Unsqueeze(centres, [0])))
    triangle = op.Max(op.Sub(one, op.Div(distance, op.Max(step, one))), zero)
    return op.Div(triangle, op.ReduceSum(triangle, [0]))


@script(default_opset=op)
def fitted(planes, wanted_height, wanted_width):
    """Scale pixels as Pillow's ``ImageOps.fit`` does with BILINEAR: what is too much is cut off on both sides alike."""
    shape = op.Shape(planes)
    height, width = op.Cast(op.Gather(shape, 2), to=FLOAT_TYPE), op.Cast(op.Gather(shape, 3), to=FLOAT_TYPE)
    used_height = op.Min(height, op.Div(op.Mul(width, wanted_height), wanted_width))
    used_width = op.Min(width, op.Div(op.Mul(height, wanted_width), wanted_height))
    across = triangles(width, used_width, wanted_width)
    down = op.Transpose(triangles(height, used_height, wanted_height), perm=[1, 0])
    pixels = op.Cast(planes, to=FLOAT_TYPE)
    half = op.Constant(value_float=0.5)
    # Whole levels between both passes, and the vertical one first where rows are cut off, as Pillow 13 has it.
    if op.Greater(height, used_height):
        both = op.MatMul(op.Floor(op.Add(op.MatMul(down, pixels), half)), across)
    else:
        both = op.MatMul(down, op.Floor(op.Add(op.MatMul(pixels, across), half)))
    zero, most = op.Constant(value_float=0.0), op.Constant(value_float=255.0)
    return op.Cast(op.Clip(op.Floor(op.Add(both, half)), zero, most), to=UINT8_TYPE)


@script(default_opset=op)
def on_white(planes):
    """Paint red, green, blue and opacity on a white ground."""
    white = op.Constant(value_float=255.0)
    colours = op.Cast(op.Slice(planes, [0], [3], [1]), to=FLOAT_TYPE)
    opacity = op.Cast(op.Slice(planes, [3], [4], [1]), to=FLOAT_TYPE)
    painted = op.Add(op.Mul(colours, opacity), op.Mul(op.Sub(white, opacity), white))
    return op.Cast(op.Round(op.Div(painted, white)), to=UINT8_TYPE)


@script(default_opset=op)
def grey(planes):
    """Make red, green and blue what they are in Pillow's mode L."""
    shares = op.Constant(value=GREY_SHARES)
    half, whole = (
        op.Cast(op.Constant(value_int=32768), to=INT32_TYPE),
        op.Cast(op.Constant(value_int=65536), to=INT32_TYPE),
    )
    added = op.ReduceSum(op.Mul(op.Cast(planes, to=INT32_TYPE), shares), [1])
    return op.Cast(op.Div(op.Add(added, half), whole), to=UINT8_TYPE)


@script(default_opset=op)
def to_grey(planes):
    """Make a picture with colours, which may be transparent, grey."""
    if op.Equal(op.Gather(op.Shape(planes), 1), 4):
        colours = on_white(planes)
    else:
        colours = op.Identity(planes)
    return grey(colours)


@script(default_opset=op)
def to_colours(planes):
    """Make a grey picture, or one that may be transparent, red, green and blue."""
    if op.Equal(op.Gather(op.Shape(planes), 1), 4):
        colours = on_white(planes)
    else:
        colours = op.Tile(planes, [1, 3, 1, 1])
    return colours


@script(default_opset=op)
def as_they_are(planes):
    """Leave channels of which nobody knows what they are."""
    return op.Identity(planes)


def pictures(channels: int, height: int, width: int) -> OnnxFunction:
    """Take pixels of any size with one, three or four channels, first or last, and prepare them as training's were.

    Channels are last where the last side is 1, 3 or 4, or as many as training had, unless what is given fits as it is.
    """
    wanted_height, wanted_width = float(height), float(width)
    recoloured = {1: to_grey, 3: to_colours}.get(channels, as_they_are)

    @script(default_opset=op)
    def prepare(pixels: UINT8["batch", "d1", "d2", "d3"]) -> UINT8["batch", channels, height, width]:  # noqa: F821
        sides = op.Shape(pixels)
        second, last = op.Gather(sides, 1), op.Gather(sides, 3)
        like_pictures = op.Or(op.Or(op.Equal(last, 1), op.Equal(last, 3)), op.Equal(last, 4))
        like_channels = op.Or(like_pictures, op.Equal(last, channels))
        fits = op.And(op.Equal(second, channels), op.Equal(last, width))
        if op.And(like_channels, op.Not(fits)):
            planes = op.Transpose(pixels, perm=[0, 3, 1, 2])
        else:
            planes = op.Identity(pixels)
        if op.Equal(op.Gather(op.Shape(planes), 1), channels):
            coloured = op.Identity(planes)
        else:
            coloured = recoloured(planes)
        given = op.Shape(coloured)
        if op.And(op.Equal(op.Gather(given, 2), height), op.Equal(op.Gather(given, 3), width)):
            prepared = op.Identity(coloured)
        else:
            tall, wide = op.Constant(value_float=wanted_height), op.Constant(value_float=wanted_width)
            prepared = fitted(coloured, tall, wide)
        return prepared

    return prepare


def texts(vocabulary: int, longest: int) -> OnnxFunction:
    """Take token ids of any length: what is beyond the longest text of training is cut off, as there.

    An id that the vocabulary has not is unknown (1). A text of padding alone becomes one unknown token: to have
    nothing to attend to gives some networks no number.
    """

    end = [longest]

    @script(default_opset=op)
    def prepare(tokens: INT64["batch", "length"]) -> INT64["batch", "cut"]:  # noqa: F821
        unknown, padding = op.Constant(value_int=1), op.Constant(value_int=PADDING)
        short = op.Slice(tokens, [0], op.Constant(value_ints=end), [1])
        outside = op.Or(op.Less(short, padding), op.GreaterOrEqual(short, op.Constant(value_int=vocabulary)))
        clean = op.Where(outside, unknown, short)
        zero, one = op.Constant(value_int=0), op.Constant(value_int=1)
        places = op.Range(zero, op.Gather(op.Shape(clean), 1), one)
        filled = op.ReduceMax(op.Cast(op.Not(op.Equal(clean, padding)), to=INT32_TYPE), [1])
        empty = op.Equal(filled, op.Cast(zero, to=INT32_TYPE))
        prepared = op.Where(op.And(empty, op.Equal(places, zero)), unknown, clean)
        return prepared

    return prepare


def classes(names: Sequence[str], temperature: float) -> OnnxFunction:
    """Give the probability of each class, and the name of the likeliest."""
    known = onnx.helper.make_tensor("names", onnx.TensorProto.STRING, (len(names),), [name.encode() for name in names])

    @script(default_opset=op)
    def answer(logits: FLOAT["batch", "K"]) -> tuple[FLOAT["batch", "K"], STRING["batch"]]:  # noqa: F821
        probabilities = op.Softmax(op.Div(logits, op.Constant(value_float=temperature)), axis=1)
        labels = op.Gather(op.Constant(value=known), op.ArgMax(logits, axis=1, keepdims=0))
        return probabilities, labels

    return answer


def yes_and_no(temperature: float) -> OnnxFunction:
    """Give the probability of each label, and whether it applies."""

    @script(default_opset=op)
    def answer(logits: FLOAT["batch", "K"]) -> tuple[FLOAT["batch", "K"], BOOL["batch", "K"]]:  # noqa: F821
        probabilities = op.Sigmoid(op.Div(logits, op.Constant(value_float=temperature)))
        labels = op.Greater(logits, op.Constant(value_float=0.0))
        return probabilities, labels

    return answer
