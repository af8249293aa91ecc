"""Write a trained network as one ONNX file that takes raw pixels."""

import io
import json
import logging
import warnings
from collections.abc import Mapping
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import onnx
import torch
from torch import nn

from components.errors import UserError
from components.files import write_atomically
from components.pixels import PixelClassifier
from components.refs import DataRef

# Opset 23 and later break masked attention in onnxruntime.
OPSET = 20
INPUT, OUTPUT = "pixels", "logits"


def to_onnx(network: nn.Module, data: DataRef, metadata: Mapping[str, str], path: Path) -> None:
    """Export ``network`` with the normalisation of its data, for any batch size.

    The model takes ``pixels`` (uint8, (batch, C, H, W)) and gives ``logits`` (float32, (batch, classes)).
    Labels, layout and ``metadata`` are in its ``metadata_props``; traces of source files are not.

    Raises:
        UserError: torch cannot export the network, or the checker refuses the result.
    """
    network = network.cpu().eval().to(memory_format=torch.contiguous_format)
    model = PixelClassifier(network, data.mean, data.std).eval()
    example = torch.zeros(2, *data.image_shape, dtype=torch.uint8)
    proto = _export(model, example)
    strip_traces(proto)
    described = {
        "labels": json.dumps(list(data.classes)),
        "input": f"uint8 pixels 0-255, NCHW (batch, {', '.join(map(str, data.image_shape))})",
        "output": f"float32 logits (batch, {len(data.classes)}); the largest is the answer",
        **metadata,
    }
    for key, value in described.items():
        proto.metadata_props.add(key=key, value=value)
    try:
        onnx.checker.check_model(proto, full_check=True)
    except onnx.checker.ValidationError as error:
        raise UserError(f"The exported model is not valid ONNX: {' '.join(str(error).split())}") from error
    # Sorted fields: the same network gives the same bytes.
    write_atomically(path, lambda partial: partial.write_bytes(proto.SerializeToString(deterministic=True)))


def _export(model: nn.Module, example: torch.Tensor) -> onnx.ModelProto:
    quiet = logging.getLogger("torch")
    level = quiet.level
    quiet.setLevel(logging.ERROR)
    try:
        # The exporter talks to stdout, and where it fails it prints graphs to stderr.
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            program = torch.onnx.export(
                model,
                (example,),
                dynamo=True,
                opset_version=OPSET,
                input_names=[INPUT],
                output_names=[OUTPUT],
                dynamic_shapes=({0: "batch"},),
                verbose=False,
            )
    except torch.onnx.errors.OnnxExporterError as error:
        cause = _root_cause(error)
        raise UserError(
            f"{type(model.network).__name__} cannot be exported to ONNX: {' '.join(str(cause).split())[:500]}",
            "Branches on a tensor's values and sizes taken from the batch are the usual reasons.",
        ) from error
    finally:
        quiet.setLevel(level)
    assert program is not None  # torch.onnx.export gives None only without dynamo
    return program.model_proto


def _root_cause(error: BaseException) -> BaseException:
    while error.__cause__ is not None:
        error = error.__cause__
    return error


def strip_traces(proto: onnx.ModelProto) -> None:
    """Remove what the exporter notes about the source: stack traces with file paths, and its own bookkeeping."""
    for graph in [proto.graph, *proto.functions]:
        for part in [graph, *graph.node, *graph.value_info]:
            del part.metadata_props[:]
            part.ClearField("doc_string")
    for part in [*proto.graph.input, *proto.graph.output, *proto.graph.initializer]:
        del part.metadata_props[:]
        part.ClearField("doc_string")
