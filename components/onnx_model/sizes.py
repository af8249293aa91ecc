"""Checks of an ONNX file before it is loaded: its tensors' sizes, and the files that it refers to."""

import math
from collections.abc import Iterator
from pathlib import Path

import onnx
import psutil

from torchmill.components.errors import UserError

COPIES = 3  # copies of the weights in memory, at least: the file's, the parsed ones and the session's
PLAIN_MEMORY = 64e6  # bytes; smaller sizes need no check
LARGEST_INFERRED = 1.5e9  # bytes; shape inference fails beyond 2 GB
EXPORTED = "Give one that `torchmill train` has exported."


def check_memory(file: Path, size: float) -> None:
    free = psutil.virtual_memory().available
    if size > PLAIN_MEMORY and COPIES * size > free:
        raise UserError(
            f"{file} has weights of {size / 1e9:,.1f} GB, and needs about {COPIES * size / 1e9:,.1f} GB of memory: "
            f"{free / 1e9:,.1f} GB are free.",
            "Close other programs, or use a machine with more memory.",
        )


def check_tensors(proto: onnx.ModelProto, file: Path) -> None:
    """Refuse tensors outside of the file's folder, and those whose data is not of the declared size."""
    total = 0
    for tensor in _tensors(proto):
        size = math.prod(tensor.dims) * _width(tensor.data_type)
        total += size
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            _check_external(tensor, file)
        elif tensor.HasField("raw_data") and len(tensor.raw_data) != size:
            raise UserError(
                f"{file} is damaged: its tensor '{tensor.name}' says to have {size:,} bytes, and has "
                f"{len(tensor.raw_data):,}.",
                "Export or copy it again.",
            )
    check_memory(file, total)
    _check_computed(proto, file)


def _check_computed(proto: onnx.ModelProto, file: Path) -> None:
    """Refuse graphs that compute huge tensors, for example one number repeated ten billion times."""
    if proto.ByteSize() > LARGEST_INFERRED:
        return
    try:
        inferred = onnx.shape_inference.infer_shapes(proto, data_prop=True)
    except (onnx.shape_inference.InferenceError, ValueError) as error:
        raise UserError(f"{file} is damaged: {' '.join(str(error).split())[:200]}", EXPORTED) from error
    for value in inferred.graph.value_info:
        tensor = value.type.tensor_type
        sides = [side.dim_value if side.HasField("dim_value") else 1 for side in tensor.shape.dim]
        size = math.prod(sides) * _width(tensor.elem_type)
        if size > PLAIN_MEMORY and size > (free := psutil.virtual_memory().available) / COPIES:
            raise UserError(
                f"{file} makes a tensor '{value.name}' of {size / 1e9:,.1f} GB, and {free / 1e9:,.1f} GB are free.",
                "Use a machine with more memory, if you trust the model's author.",
            )


def _check_external(tensor: onnx.TensorProto, file: Path) -> None:
    location = {entry.key: entry.value for entry in tensor.external_data}.get("location", "")
    folder = file.parent.resolve()
    place = (folder / location.replace("\0", "")).resolve()
    if not location or not place.is_relative_to(folder):
        raise UserError(
            f"{file} wants to read '{location}', which is outside of its folder: it is not loaded.",
            "Export it again as one file. Don't trust a model that reads other files.",
        )
    if not place.is_file():
        raise UserError(f"{file} has weights in '{location}', which is not beside it.", "Copy that file, too.")


def _tensors(proto: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    graphs = [proto.graph]
    nodes = [node for function in proto.functions for node in function.node]
    while graphs or nodes:
        if graphs:
            graph = graphs.pop()
            yield from graph.initializer
            for sparse in graph.sparse_initializer:
                yield from (sparse.values, sparse.indices)
            nodes += graph.node
        for node in nodes:
            for attribute in node.attribute:
                yield from attribute.tensors
                if attribute.HasField("t"):
                    yield attribute.t
                graphs += [*attribute.graphs, *([attribute.g] if attribute.HasField("g") else [])]
        nodes = []


def _width(data_type: int) -> float:
    """Return the bytes of an element; 0 for text and for a type that onnxruntime refuses."""
    if data_type in (onnx.TensorProto.STRING, onnx.TensorProto.UNDEFINED):
        return 0
    try:
        return onnx.helper.tensor_dtype_to_np_dtype(data_type).itemsize
    except KeyError:
        return 0
