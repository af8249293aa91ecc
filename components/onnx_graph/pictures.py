"""A piece of an ONNX graph that turns pixels of any size and layout into those of training.

It has no operators of images, since runtimes differ in them: OpenVINO's Resize, for example, ignores antialias. Its
one branch (If) saves images of training's own size all the arithmetic.
"""

import numpy as np
import onnx
from onnx import numpy_helper
from onnxscript import FLOAT, UINT8, OnnxFunction, script
from onnxscript import opset20 as op

from torchmill.components.reading.rules import WHITE

BOOL_TYPE, FLOAT_TYPE, INT32_TYPE, INT64_TYPE, UINT8_TYPE = (
    onnx.TensorProto.BOOL,
    onnx.TensorProto.FLOAT,
    onnx.TensorProto.INT32,
    onnx.TensorProto.INT64,
    onnx.TensorProto.UINT8,
)

MOST_VALUES = 2**27
"""Largest batch, in pixels times channels: the graph takes up to eight bytes of memory for each."""

GREY_SHARES = (19595 / 65536, 38470 / 65536, 7471 / 65536)
"""Shares of red, green and blue in Pillow's mode L. Their sums over levels are exact in float32."""


@script(default_opset=op)
def triangles(side, starts, counts, rims, used_sides, result_sides):
    """Return the weights (count, result) of a triangle filter along one side: 0 is the height, 1 the width.

    Of the side, the used pixels behind the rim are scaled. Pixels beyond them count at the rim (Pillow, Resample.c).
    The weights are those of so many pixels from the start on as the count says.
    """
    zero, one, half = op.Constant(value_float=0.0), op.Constant(value_float=1.0), op.Constant(value_float=0.5)
    result = op.Gather(result_sides, side)
    step = op.Div(op.Gather(used_sides, side), result)
    centres = op.Add(op.Mul(op.Add(op.Range(zero, result, one), half), step), op.Gather(rims, side))
    sources = op.Add(op.Range(zero, op.Gather(counts, side), one), op.Add(op.Gather(starts, side), half))
    distance = op.Abs(op.Sub(op.Unsqueeze(sources, [1]), op.Unsqueeze(centres, [0])))
    triangle = op.Max(op.Sub(one, op.Div(distance, op.Max(step, one))), zero)
    return op.Div(triangle, op.ReduceSum(triangle, [0]))


@script(default_opset=op)
def turned_if(planes, turns):
    """Exchange the last two sides of (planes, A, B) if ``turns`` is 1, and nothing if it is 0.

    An exchange of the sides 1 and A·B leaves all values where they are.
    """
    one = op.Constant(value_ints=[1])
    shape = op.Shape(planes)
    count, sides = op.Slice(shape, [0], [1], [0]), op.Slice(shape, [1], [3], [0])
    stays = op.Sub(one, turns)
    ahead = op.Add(op.Mul(op.Slice(sides, [0], [1], [0]), turns), stays)
    flat = op.Reshape(planes, op.Concat(count, ahead, op.Div(op.ReduceProd(sides, keepdims=1), ahead), axis=0))
    turned = op.Add(op.Mul(op.Gather(sides, [1, 0]), turns), op.Mul(sides, stays))
    return op.Reshape(op.Transpose(flat, perm=[0, 2, 1]), op.Concat(count, turned, axis=0))


@script(default_opset=op)
def scaled(planes, start, rim, used, wanted):
    """Scale levels (planes, H, W) like Pillow: rounded between both passes, of which that along a cut side is first.

    Args:
        planes: the pixels from ``start`` (2,) on.
        rim: pixels that are cut off at the beginning of height and width, float (2,).
        used: pixels that are scaled.
        wanted: height and width of the result.
    """
    zero, one, half = op.Constant(value_int=0), op.Constant(value_int=1), op.Constant(value_float=0.5)
    rows_cut = op.Greater(op.Gather(rim, zero), op.Constant(value_float=0.0))
    first = op.Sub(one, op.Cast(rows_cut, to=INT64_TYPE))
    second = op.Sub(one, first)
    turns = op.Unsqueeze(second, [0])
    count = op.Cast(op.Slice(op.Shape(planes), [1], [3], [0]), to=FLOAT_TYPE)
    across = triangles(first, start, count, rim, used, wanted)
    down = triangles(second, start, count, rim, used, wanted)
    rows = op.Floor(op.Add(op.MatMul(turned_if(planes, turns), across), half))
    both = op.Floor(op.Add(op.MatMul(op.Transpose(down, perm=[1, 0]), rows), half))
    return turned_if(both, turns)


@script(default_opset=op)
def fitted(levels, start, rim, used, wanted):
    """Scale levels (images, channels, H, W) to the wanted height and width; see ``scaled``."""
    shape = op.Shape(levels)
    images, sides = op.Slice(shape, [0], [2], [0]), op.Slice(shape, [2], [4], [0])
    stacked = op.Reshape(levels, op.Concat(op.ReduceProd(images, keepdims=1), sides, axis=0))
    result = scaled(stacked, start, rim, used, wanted)
    return op.Reshape(result, op.Concat(images, op.Cast(wanted, to=INT64_TYPE), axis=0))


@script(default_opset=op)
def window(size, wanted):
    """Return the part of a picture that is scaled, for height and width, each as float (2,).

    Returns:
        Its size, the pixels that are cut off in front of it, the first pixel that its filter reaches, and the pixel
        behind the last.
    """
    used = op.Min(size, op.Div(op.Mul(op.Gather(size, [1, 0]), wanted), op.Gather(wanted, [1, 0])))
    rim = op.Mul(op.Sub(size, used), op.Constant(value_float=0.5))
    reach = op.Max(op.Div(used, wanted), op.Constant(value_float=1.0))
    start = op.Floor(op.Max(op.Sub(rim, reach), op.Constant(value_float=0.0)))
    behind = op.Min(op.Ceil(op.Add(op.Add(rim, used), reach)), size)
    return used, rim, start, behind


@script(default_opset=op)
def read(pixels, counts, own, most):
    """Return pixels as they are, their three sides, and whether channels are last, int64 (1,). Refuse what is unclear.

    Args:
        counts: numbers of channels that images have.
        own: training's own sides, with channels first and last (2, 3).
        most: largest number of values of a batch.
    """
    zero, shape = op.Constant(value_ints=[0]), op.Shape(pixels)
    images, sides = op.Slice(shape, [0], [1], [0]), op.Slice(shape, [1], [4], [0])
    ends = op.Unsqueeze(op.Gather(sides, [0, 2]), [1])
    like_channels = op.ReduceMax(op.Cast(op.Equal(ends, counts), to=INT64_TYPE), [1], keepdims=0)
    like_own = op.ReduceMin(op.Cast(op.Equal(sides, own), to=INT64_TYPE), [1], keepdims=0)
    points = op.Add(like_channels, op.Mul(like_own, op.Constant(value_ints=[3, 2])))
    first, last = op.Slice(points, [0], [1], [0]), op.Slice(points, [1], [2], [0])
    is_last = op.Cast(op.Greater(last, first), to=INT64_TYPE)
    values = op.ReduceProd(sides, keepdims=1)
    unclear = op.Or(op.Equal(first, last), op.Equal(values, zero))
    refused = op.Cast(op.Or(unclear, op.Greater(op.Mul(images, values), most)), to=INT64_TYPE)
    # Reshape refuses sides that don't multiply to the number of values.
    checked = op.Reshape(pixels, op.Concat(images, op.Add(sides, refused), axis=0))
    return checked, sides, is_last


@script(default_opset=op)
def channels_first(pixels, is_last, in_order):
    """Return pixels as (images, channels, H, W).

    Args:
        in_order: numbers of the sides of channels, height and width.
    """
    one, shape = op.Constant(value_ints=[1]), op.Shape(pixels)
    images, sides = op.Slice(shape, [0], [1], [0]), op.Slice(shape, [1], [4], [0])
    second = op.Max(op.Mul(op.Slice(sides, [1], [2], [0]), is_last), one)
    ahead = op.Mul(op.Slice(sides, [0], [1], [0]), second)
    pairs = op.Reshape(pixels, op.Concat(images, ahead, op.Div(op.ReduceProd(sides, keepdims=1), ahead), axis=0))
    return op.Reshape(turned_if(pairs, is_last), op.Concat(images, op.Gather(sides, in_order), axis=0))


@script(default_opset=op)
def without_fourth(planes):
    """Leave the fourth channel out."""
    return op.Slice(planes, [0], [3], [1])


def on_ground(level: int) -> OnnxFunction:
    """Return a graph that paints red, green, blue and opacity on a grey ground, as Pillow's alpha_composite does.

    Images without opacity stay as they are: none of their rows is painted.
    """
    ground_level = float(level)

    @script(default_opset=op)
    def painted_on(planes):
        zero, one, three = op.Constant(value_ints=[0]), op.Constant(value_ints=[1]), op.Constant(value_ints=[3])
        shape, sides = op.Shape(planes), op.Constant(value_ints=[1, 2])
        channels, rows = op.Slice(shape, [1], [2], [0]), op.Slice(shape, [2], [3], [0])
        painted = op.Mul(op.Cast(op.Greater(channels, three), to=INT64_TYPE), rows)
        others = op.Slice(planes, op.Concat(zero, painted, axis=0), op.Concat(three, rows, axis=0), sides)
        colours = op.Slice(planes, op.Concat(zero, zero, axis=0), op.Concat(three, painted, axis=0), sides)
        last = op.Sub(channels, one)
        alpha = op.Slice(planes, op.Concat(last, zero, axis=0), op.Concat(channels, painted, axis=0), sides)
        opacity, full = op.Cast(alpha, to=FLOAT_TYPE), op.Constant(value_float=255.0)
        ground = op.Mul(op.Sub(full, opacity), op.Constant(value_float=ground_level))
        mixed = op.Round(op.Div(op.Add(op.Mul(op.Cast(colours, to=FLOAT_TYPE), opacity), ground), full))
        return op.Concat(op.Cast(mixed, to=UINT8_TYPE), others, axis=2)

    return painted_on


SHARES = numpy_helper.from_array(np.array([[1.0, *GREY_SHARES]], np.float32), "shares")
"""Shares of a grey channel, and then of three colours."""


@script(default_opset=op)
def grey(planes):
    """Convert grey or red, green and blue, (images, C, H, W), to Pillow's mode L."""
    one, shape = op.Constant(value_ints=[1]), op.Shape(planes)
    images, channels = op.Slice(shape, [0], [1], [0]), op.Slice(shape, [1], [2], [0])
    rows = op.Slice(shape, [2], [4], [0])
    start = op.Min(op.Sub(channels, one), one)
    shares = op.Slice(op.Constant(value=SHARES), start, op.Add(start, channels), one)
    flat = op.Reshape(planes, op.Concat(images, channels, op.ReduceProd(rows, keepdims=1), axis=0))
    levels = op.Floor(op.Add(op.MatMul(shares, flat), op.Constant(value_float=0.5)))
    return op.Reshape(levels, op.Concat(images, one, rows, axis=0))


@script(default_opset=op)
def as_they_are(planes):
    """Leave channels as they are."""
    return op.Identity(planes)


@script(default_opset=op)
def three(planes):
    """Repeat a grey channel three times."""
    return op.Expand(planes, [1, 3, 1, 1])


def standardized(offset: np.ndarray, scale: np.ndarray) -> OnnxFunction:
    """Return a graph that subtracts ``offset`` from levels and multiplies them by ``scale``: (1, channels, 1, 1)."""
    offsets, scales = numpy_helper.from_array(offset, "offset"), numpy_helper.from_array(scale, "scale")

    @script(default_opset=op)
    def standardize(levels: FLOAT[...]) -> FLOAT[...]:
        pixel_offset, pixel_scale = op.Constant(value=offsets), op.Constant(value=scales)
        return op.Mul(op.Sub(levels, pixel_offset), pixel_scale)

    return standardize


def pictures(channels: int, height: int, width: int, ground: int | None = WHITE) -> OnnxFunction:
    """Return a graph that prepares pixels of any size like training's: scaled like Pillow's ImageOps.fit, BILINEAR.

    Channels are first or last, where there are 1, 3 or 4, or training's number. Pixels that fit neither or either
    reading are refused, unless they have training's own sides.

    Args:
        ground: grey level behind transparent pixels; None leaves the fourth channel out.

    Returns:
        A graph to whole levels from 0 to 255, float32 (images, channels, height, width).
    """
    has_colours = channels in (1, 3)
    numbers, most = [1, 3, 4] if has_colours else [channels], [MOST_VALUES]
    trained, wanted_sides = [channels, height, width], [float(height), float(width)]
    own_sides = numpy_helper.from_array(np.array([trained, [height, width, channels]]), "own")
    flatten = as_they_are if not has_colours else without_fourth if ground is None else on_ground(ground)
    recolour = grey if channels == 1 else as_they_are
    widen = three if channels == 3 else as_they_are

    @script(default_opset=op)
    def of_any_size(pixels):
        places, zero, three_sides = (
            op.Constant(value_ints=[0, 1, 2]),
            op.Constant(value_ints=[0]),
            op.Constant(value_ints=[3]),
        )
        counts, limit = op.Constant(value_ints=numbers), op.Constant(value_ints=most)
        pixels, sides, is_last = read(pixels, counts, op.Constant(value=own_sides), limit)
        as_stored = op.Mod(op.Add(places, is_last), three_sides)  # of channels, height and width
        in_order = op.Mod(op.Add(places, op.Add(is_last, is_last)), three_sides)  # back to them
        ordered, wanted = op.Gather(sides, in_order), op.Constant(value_floats=wanted_sides)
        used, rim, start, behind = window(op.Cast(op.Slice(ordered, [1], [3], [0]), to=FLOAT_TYPE), wanted)
        # Cut first: all that follows is done to fewer pixels.
        from_ = op.Gather(op.Concat(zero, op.Cast(start, to=INT64_TYPE), axis=0), as_stored)
        channel_count = op.Slice(ordered, [0], [1], [0])
        to = op.Gather(op.Concat(channel_count, op.Cast(behind, to=INT64_TYPE), axis=0), as_stored)
        planes = channels_first(op.Slice(pixels, from_, to, op.Constant(value_ints=[1, 2, 3])), is_last, in_order)
        levels = recolour(op.Cast(flatten(planes), to=FLOAT_TYPE))
        return widen(fitted(levels, start, rim, used, wanted))

    @script(default_opset=op)
    def prepare(
        pixels: UINT8["batch", "d1", "d2", "d3"],  # noqa: F821
    ) -> FLOAT["batch", "C", "H", "W"]:  # noqa: F821
        sides = op.Slice(op.Shape(pixels), [1], [4], [0])
        if op.Cast(
            op.ReduceMin(op.Cast(op.Equal(sides, op.Constant(value_ints=trained)), to=INT32_TYPE), keepdims=0),
            to=BOOL_TYPE,
        ):
            levels = op.Cast(pixels, to=FLOAT_TYPE)
        else:
            levels = of_any_size(pixels)
        # OpenVINO uses sizes of the call before in what follows an If, unless a shape depends on the If's values.
        return op.Reshape(levels, op.Max(op.Shape(levels), op.Constant(value_ints=[1])))

    return prepare
