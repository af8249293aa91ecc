"""A second, independent runtime runs an ONNX model: OpenVINO if it is installed, else ONNX's own implementation."""

import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, cast

import numpy as np

from torchmill.components.processes import processors

BATCHES = (1, 2, 3, 5, 8)
"""Batch sizes in turn: some runtimes fail if a batch grows, or on the first of a size."""


class Unable(Exception):
    """The runtime cannot run the model, which says nothing about the model."""


def has_openvino() -> bool:
    """Return whether OpenVINO is installed (the extra ``gates``)."""
    return find_spec("openvino") is not None


def by_openvino(file: Path, output: str, inputs: np.ndarray, batches: Sequence[int] = BATCHES) -> list[np.ndarray]:
    """Return the outputs of a model in OpenVINO, for the first inputs at each batch size in turn.

    Raises:
        Unable: OpenVINO does not take the model.
    """
    # Without it OpenVINO reports nothing to its vendor, and starts no processes for that.
    sys.modules.setdefault("openvino_telemetry", cast(Any, None))
    import openvino

    # By default it computes in bfloat16 on CPUs that have it.
    settings = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": processors()}
    core = openvino.Core()
    try:
        model = core.compile_model(core.read_model(str(file)), "CPU", settings)
        port = next(port for port in model.outputs if output in port.get_names())
        return [np.array(model(np.ascontiguousarray(inputs[:size]))[port]) for size in batches]
    except RuntimeError as error:
        raise Unable(f"{type(error).__name__}: {' '.join(str(error).split())[-200:]}") from error


def by_reference(file: Path, output: str, inputs: np.ndarray) -> np.ndarray:
    """Return the output of a model in ONNX's reference implementation.

    Raises:
        Unable: it lacks an operator, or fails by itself.
    """
    from onnx.reference import ReferenceEvaluator

    try:
        evaluator = ReferenceEvaluator(str(file))
        (values,) = evaluator.run([output], {evaluator.input_names[0]: inputs})
    except Exception as error:  # its errors share no base class
        raise Unable(f"{type(error).__name__}: {' '.join(str(error).split())[:200]}") from error
    return np.asarray(values)
