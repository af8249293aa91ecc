"""Small ONNX files as an export writes them, made without torch."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from torchmill.components.encoding.vocabulary import SPECIAL, Vocabulary

TYPES = {"pixels": TensorProto.UINT8, "tokens": TensorProto.INT64, "features": TensorProto.FLOAT}


def linear(
    path: Path,
    weights: np.ndarray,
    *,
    takes: str = "pixels",
    gives: str = "logits",
    sizes: Sequence[int | str] = (1, 4, 4),
    labels: Sequence[str] = (),
    **metadata: str,
) -> Path:
    """Write a model whose outputs are its flattened inputs times ``weights``, (inputs, outputs), in float32."""
    nodes = [
        helper.make_node("Cast", [takes], ["floats"], to=TensorProto.FLOAT),
        helper.make_node("Flatten", ["floats"], ["flat"]),
        helper.make_node("MatMul", ["flat", "weights"], [gives]),
    ]
    return written(path, nodes, [("weights", weights)], takes, gives, sizes, weights.shape[1], labels, metadata)


def bag_of_letters(
    path: Path,
    letters: str,
    scores: np.ndarray,
    labels: Sequence[str],
    *,
    longest: int = 12,
    lower_case: bool = True,
    **metadata: str,
) -> Path:
    """Write a model of texts, whose logits are the sum of each letter's row in ``scores``, (letters, labels)."""
    vocabulary = Vocabulary("characters", lower_case, longest, (*SPECIAL, *letters))
    table = np.concatenate([np.zeros((2, scores.shape[1])), scores]).astype(np.float32)
    nodes = [
        helper.make_node("Gather", ["table", "tokens"], ["rows"]),
        helper.make_node("ReduceSum", ["rows", "axis"], ["logits"], keepdims=0),
    ]
    held = [("table", table), ("axis", np.array([1], np.int64))]
    more = {"vocabulary": vocabulary.as_json(), **metadata}
    return written(path, nodes, held, "tokens", "logits", ("length",), len(labels), labels, more)


def written(
    path: Path,
    nodes: Sequence[onnx.NodeProto],
    held: Sequence[tuple[str, np.ndarray]],
    takes: str,
    gives: str,
    sizes: Sequence[int | str],
    width: int,
    labels: Sequence[str],
    metadata: dict[str, str],
) -> Path:
    weights = [
        numpy_helper.from_array(value if value.dtype == np.int64 else value.astype(np.float32), name)
        for name, value in held
    ]
    graph = helper.make_graph(
        list(nodes),
        "toy",
        [helper.make_tensor_value_info(takes, TYPES[takes], ["batch", *sizes])],
        [helper.make_tensor_value_info(gives, TensorProto.FLOAT, ["batch", width])],
        weights,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    names = list(labels) or [f"class {number}" for number in range(width)]
    for key, value in {"labels": json.dumps(names), **metadata}.items():
        model.metadata_props.add(key=key, value=value)
    onnx.checker.check_model(model)
    path.write_bytes(model.SerializeToString(deterministic=True))
    return path
