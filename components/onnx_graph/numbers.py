"""A piece of an ONNX graph that refuses numbers that are none."""

import onnx
from onnxscript import FLOAT, script
from onnxscript import opset20 as op

INT64_TYPE = onnx.TensorProto.INT64


@script(default_opset=op)
def finite(features: FLOAT[...]) -> FLOAT[...]:
    """Pass numbers on, and refuse all of them if one is nan or infinite."""
    # 0 times such a number is nan. Reshape refuses sides that don't multiply to the number of values.
    sum_of_zeros = op.ReduceSum(op.Mul(features, op.Constant(value_float=0.0)), keepdims=0)
    refused = op.Cast(op.IsNaN(sum_of_zeros), to=INT64_TYPE)
    checked = op.Reshape(features, op.Add(op.Shape(features), refused))
    return checked
