"""Configuration of NVIDIA's Triton Inference Server for an exported model."""

from pathlib import Path

import onnx

from torchmill.components.onnx_model.proto import read_without_weights

TYPES: dict[int, str] = {
    onnx.TensorProto.UINT8: "TYPE_UINT8",
    onnx.TensorProto.UINT16: "TYPE_UINT16",
    onnx.TensorProto.INT64: "TYPE_INT64",
    onnx.TensorProto.FLOAT: "TYPE_FP32",
    onnx.TensorProto.DOUBLE: "TYPE_FP64",
    onnx.TensorProto.BOOL: "TYPE_BOOL",
    onnx.TensorProto.STRING: "TYPE_STRING",
}
"""Triton's names of the types of our inputs and outputs."""

LARGEST_BATCH = 64
"""Most samples that Triton puts together."""


def triton_config(file: Path) -> str:
    """Return the text of ``config.pbtxt`` for a model of either form, to be run by Triton's onnxruntime.

    Triton collects requests of the same shape into batches, unless the model's batch size is fixed.
    Source: "Model Configuration" in the user guide of Triton Inference Server.
    """
    graph = read_without_weights(file).graph
    is_fixed = bool(_sides(graph.input[0])[0] > 0)
    lines = [
        'backend: "onnxruntime"',
        f'default_model_filename: "{file.name}"',
        f"max_batch_size: {0 if is_fixed else LARGEST_BATCH}",
        *(_tensor("input", value, is_fixed) for value in graph.input),
        *(_tensor("output", value, is_fixed) for value in graph.output),
    ]
    return "\n".join([*lines, *([] if is_fixed else ["dynamic_batching { }"]), ""])


def _tensor(role: str, value: onnx.ValueInfoProto, is_fixed: bool) -> str:
    """Return the entry of an input or output; its batch dimension is implied, unless it is fixed."""
    sides = _sides(value)[0 if is_fixed else 1 :]
    lines = [f'name: "{value.name}"', f"data_type: {TYPES[value.type.tensor_type.elem_type]}"]
    # Triton knows no tensor without a dimension beside the batch.
    lines += [f"dims: [ {', '.join(map(str, sides))} ]"] if sides else ["dims: [ 1 ]", "reshape: { shape: [ ] }"]
    return "\n".join([f"{role} [", "  {", *(f"    {line}" for line in lines), "  }", "]"])


def _sides(value: onnx.ValueInfoProto) -> list[int]:
    return [side.dim_value if side.HasField("dim_value") else -1 for side in value.type.tensor_type.shape.dim]
