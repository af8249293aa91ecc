"""Pieces of ONNX graphs from logits to probabilities and labels, in plain operators that every runtime has."""

from collections.abc import Sequence

import onnx
from onnxscript import BOOL, FLOAT, STRING, OnnxFunction, script
from onnxscript import opset20 as op


def classes(names: Sequence[str], temperature: float) -> OnnxFunction:
    """Return a graph from logits to the probability of each class and the name of the likeliest."""
    table = onnx.helper.make_tensor("names", onnx.TensorProto.STRING, (len(names),), [name.encode() for name in names])

    @script(default_opset=op)
    def answer(logits: FLOAT["batch", "K"]) -> tuple[FLOAT["batch", "K"], STRING["batch"]]:  # noqa: F821
        probabilities = op.Softmax(op.Div(logits, op.Constant(value_float=temperature)), axis=1)
        labels = op.Gather(op.Constant(value=table), op.ArgMax(logits, axis=1, keepdims=0))
        return probabilities, labels

    return answer


def yes_and_no(temperature: float) -> OnnxFunction:
    """Return a graph from logits to the probability of each label and whether it applies."""

    @script(default_opset=op)
    def answer(logits: FLOAT["batch", "K"]) -> tuple[FLOAT["batch", "K"], BOOL["batch", "K"]]:  # noqa: F821
        probabilities = op.Sigmoid(op.Div(logits, op.Constant(value_float=temperature)))
        labels = op.Greater(logits, op.Constant(value_float=0.0))
        return probabilities, labels

    return answer
