"""A second, independent runtime runs an ONNX model: OpenVINO if it is installed, else ONNX's own implementation."""

import sys
from collections.abc import Mapping, Sequence
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


def by_openvino(
    file: Path, inputs: Mapping[str, np.ndarray], batches: Sequence[int] = BATCHES
) -> list[dict[str, np.ndarray]]:
    """Return the outputs of a model in OpenVINO by name, for the first inputs at each batch size in turn.

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
        ports = [(name, port) for port in model.outputs for name in port.get_names()]
        results = []
        for size in batches:
            outputs = model({name: np.ascontiguousarray(values[:size]) for name, values in inputs.items()})
            results.append({name: np.array(outputs[port]) for name, port in ports})
        return results
    except RuntimeError as error:
        raise Unable(f"{type(error).__name__}: {' '.join(str(error).split())[-200:]}") from error


def by_reference(file: Path, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return the outputs of a model in ONNX's reference implementation by name.

    Raises:
        Unable: it lacks an operator, or fails by itself.
    """
    from onnx.reference import ReferenceEvaluator

    try:
        evaluator = ReferenceEvaluator(str(file))
        outputs: Any = evaluator.run(None, dict(inputs))
    except Exception as error:  # its errors share no base class
        raise Unable(f"{type(error).__name__}: {' '.join(str(error).split())[:200]}") from error
    return {name: np.asarray(values) for name, values in zip(evaluator.output_names, outputs, strict=True)}
