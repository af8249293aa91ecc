"""Pieces of ONNX graphs from logits to probabilities and labels, in plain operators that every runtime has."""

from collections.abc import Sequence

import onnx
from onnxscript import BOOL, FLOAT, INT64, STRING, OnnxFunction, script
from onnxscript import opset20 as op


def classes(names: Sequence[str], temperature: float) -> OnnxFunction:
    """Return a graph from logits to the probability of each class, and to the likeliest: its name and its number.

    Where the logits are no numbers, the number is -1 and the name empty.
    """
    table = onnx.helper.make_tensor(
        "names", onnx.TensorProto.STRING, (len(names) + 1,), [name.encode() for name in (*names, "")]
    )

    @script(default_opset=op)
    def answer(
        logits: FLOAT["batch", "K"],  # noqa: F821
    ) -> tuple[FLOAT["batch", "K"], STRING["batch"], INT64["batch"]]:  # noqa: F821
        probabilities = op.Softmax(op.Div(logits, op.Constant(value_float=temperature)), axis=1)
        unknown = op.IsNaN(op.ReduceSum(probabilities, [1], keepdims=0))
        index = op.Where(unknown, op.Constant(value_int=-1), op.ArgMax(logits, axis=1, keepdims=0))
        class_names = op.Constant(value=table)
        labels = op.Gather(class_names, index)
        return probabilities, labels, index

    return answer


def yes_and_no(temperature: float) -> OnnxFunction:
    """Return a graph from logits to the probability of each label and whether it applies."""

    @script(default_opset=op)
    def answer(logits: FLOAT["batch", "K"]) -> tuple[FLOAT["batch", "K"], BOOL["batch", "K"]]:  # noqa: F821
        probabilities = op.Sigmoid(op.Div(logits, op.Constant(value_float=temperature)))
        labels = op.Greater(logits, op.Constant(value_float=0.0))
        return probabilities, labels

    return answer
