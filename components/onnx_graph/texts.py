"""A piece of an ONNX graph that turns token ids of any length into those of training."""

import onnx
from onnxscript import INT64, OnnxFunction, script
from onnxscript import opset20 as op

from torchmill.components.encoding.vocabulary import PADDING

INT32_TYPE = onnx.TensorProto.INT32


def texts(vocabulary: int, longest: int) -> OnnxFunction:
    """Return a graph that prepares token ids of any length: longer texts than training's are cut.

    Ids outside of the vocabulary become unknown (1). A text of padding alone becomes one unknown token: some networks
    return NaN if they have nothing to attend to.
    """

    end = [longest]

    @script(default_opset=op)
    def prepare(tokens: INT64["batch", "any_length"]) -> INT64["batch", "length"]:  # noqa: F821
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
