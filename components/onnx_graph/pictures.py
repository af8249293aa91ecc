"""Pieces of an ONNX graph that turn pixels of any size and layout into those of training.

They use plain operators that every runtime has: some runtimes' Resize has no antialias.
"""

import onnx
from onnxscript import UINT8, OnnxFunction, script
from onnxscript import opset20 as op

from torchmill.components.reading.rules import WHITE

FLOAT_TYPE, UINT8_TYPE, INT32_TYPE = (
    onnx.TensorProto.FLOAT,
    onnx.TensorProto.UINT8,
    onnx.TensorProto.INT32,
)
GREY_SHARES = onnx.helper.make_tensor("shares", INT32_TYPE, (1, 3, 1, 1), [19595, 38470, 7471])
"""Shares of red, green and blue in Pillow's mode L, in 65,536ths."""


@script(default_opset=op)
def triangles(size, used, wanted):
    """Return the weights (size, wanted) of a triangle filter along one side.

    The middle ``used`` of ``size`` pixels are scaled to ``wanted``; pixels beyond them count at the rim (Pillow,
    Resample.c).
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
    """Scale pixels like Pillow's ``ImageOps.fit`` with BILINEAR, which crops both sides equally."""
    shape = op.Shape(planes)
    height, width = op.Cast(op.Gather(shape, 2), to=FLOAT_TYPE), op.Cast(op.Gather(shape, 3), to=FLOAT_TYPE)
    used_height = op.Min(height, op.Div(op.Mul(width, wanted_height), wanted_width))
    used_width = op.Min(width, op.Div(op.Mul(height, wanted_width), wanted_height))
    across = triangles(width, used_width, wanted_width)
    down = op.Transpose(triangles(height, used_height, wanted_height), perm=[1, 0])
    pixels = op.Cast(planes, to=FLOAT_TYPE)
    half = op.Constant(value_float=0.5)
    # As in Pillow 13: whole levels between both passes, and the vertical pass first if rows are cropped.
    if op.Greater(height, used_height):
        both = op.MatMul(op.Floor(op.Add(op.MatMul(down, pixels), half)), across)
    else:
        both = op.MatMul(down, op.Floor(op.Add(op.MatMul(pixels, across), half)))
    zero, most = op.Constant(value_float=0.0), op.Constant(value_float=255.0)
    return op.Cast(op.Clip(op.Floor(op.Add(both, half)), zero, most), to=UINT8_TYPE)


@script(default_opset=op)
def grey(planes):
    """Convert red, green and blue to Pillow's mode L."""
    shares = op.Constant(value=GREY_SHARES)
    half, whole = (
        op.Cast(op.Constant(value_int=32768), to=INT32_TYPE),
        op.Cast(op.Constant(value_int=65536), to=INT32_TYPE),
    )
    added = op.ReduceSum(op.Mul(op.Cast(planes, to=INT32_TYPE), shares), [1])
    return op.Cast(op.Div(op.Add(added, half), whole), to=UINT8_TYPE)


@script(default_opset=op)
def as_they_are(planes):
    """Leave channels of unknown meaning as they are."""
    return op.Identity(planes)


def without_fourth() -> OnnxFunction:
    """Return a graph that leaves the fourth channel out."""

    @script(default_opset=op)
    def colors_alone(planes):
        return op.Slice(planes, [0], [3], [1])

    return colors_alone


def on_ground(level: int) -> OnnxFunction:
    """Return a graph that paints red, green, blue and opacity on a grey ground, as Pillow's alpha_composite does."""
    ground_level = float(level)

    @script(default_opset=op)
    def painted_on(planes):
        full, ground = op.Constant(value_float=255.0), op.Constant(value_float=ground_level)
        colours = op.Cast(op.Slice(planes, [0], [3], [1]), to=FLOAT_TYPE)
        opacity = op.Cast(op.Slice(planes, [3], [4], [1]), to=FLOAT_TYPE)
        painted = op.Add(op.Mul(colours, opacity), op.Mul(op.Sub(full, opacity), ground))
        return op.Cast(op.Round(op.Div(painted, full)), to=UINT8_TYPE)

    return painted_on


def to_grey(level: int | None) -> OnnxFunction:
    """Return a graph from RGB or RGBA to grey."""
    rgb = without_fourth() if level is None else on_ground(level)

    @script(default_opset=op)
    def grey_of_any(planes):
        if op.Equal(op.Gather(op.Shape(planes), 1), 4):
            colours = rgb(planes)
        else:
            colours = op.Identity(planes)
        return grey(colours)

    return grey_of_any


def to_colours(level: int | None) -> OnnxFunction:
    """Return a graph from grey or RGBA to RGB."""
    rgb = without_fourth() if level is None else on_ground(level)

    @script(default_opset=op)
    def colours_of_any(planes):
        if op.Equal(op.Gather(op.Shape(planes), 1), 4):
            colours = rgb(planes)
        else:
            colours = op.Tile(planes, [1, 3, 1, 1])
        return colours

    return colours_of_any


def pictures(channels: int, height: int, width: int, ground: int | None = WHITE) -> OnnxFunction:
    """Return a graph that prepares pixels of any size like training's: 1, 3 or 4 channels, first or last.

    Channels are last if the last side is 1, 3, 4 or training's number, unless the pixels fit as they are.

    Args:
        ground: grey level behind transparent pixels; None leaves the fourth channel out.
    """
    wanted_height, wanted_width = float(height), float(width)
    recoloured = to_grey(ground) if channels == 1 else to_colours(ground) if channels == 3 else as_they_are

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
        size = op.Shape(coloured)
        if op.And(op.Equal(op.Gather(size, 2), height), op.Equal(op.Gather(size, 3), width)):
            prepared = op.Identity(coloured)
        else:
            tall, wide = op.Constant(value_float=wanted_height), op.Constant(value_float=wanted_width)
            prepared = fitted(coloured, tall, wide)
        return prepared

    return prepare
