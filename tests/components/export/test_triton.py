"""Triton's configuration names the inputs and outputs of an exported model as the model has them."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.toy import made, toy_data, toy_numbers, toy_tokens
from torchmill.components.export.to_onnx import export_core, write_bare, write_complete
from torchmill.components.export.triton import triton_config
from torchmill.components.refs import DataRef

COMPLETE: dict[str, tuple[Callable[[Path], DataRef], str, dict[str, tuple[str, str]]]] = {
    "images": (
        lambda folder: toy_data(folder, train=30, test=20),
        "mlp",
        {
            "pixels": ("TYPE_UINT8", "-1, -1, -1"),
            "logits": ("TYPE_FP32", "10"),
            "probabilities": ("TYPE_FP32", "10"),
            "labels": ("TYPE_STRING", ""),
            "index": ("TYPE_INT64", ""),
        },
    ),
    "tokens": (
        toy_tokens,
        "transformer",
        {
            "tokens": ("TYPE_INT64", "-1"),
            "logits": ("TYPE_FP32", "3"),
            "probabilities": ("TYPE_FP32", "3"),
            "labels": ("TYPE_STRING", ""),
            "index": ("TYPE_INT64", ""),
        },
    ),
    "labels": (
        lambda folder: toy_numbers(folder, task="multilabel"),
        "mlp",
        {
            "features": ("TYPE_FP32", "6"),
            "logits": ("TYPE_FP32", "3"),
            "probabilities": ("TYPE_FP32", "3"),
            "labels": ("TYPE_BOOL", "3"),
        },
    ),
    "regression": (
        lambda folder: toy_numbers(folder, task="regression"),
        "mlp",
        {"features": ("TYPE_FP32", "6"), "values": ("TYPE_FP32", "3")},
    ),
}

SMALL = {"transformer": {"width": 16, "heads": 2, "layers": 1, "feedforward": 16}}
"""Arguments of networks whose usual ones take long to export."""


def entries(config: str) -> dict[str, tuple[str, str]]:
    """Return type and dimensions of each tensor, by name; empty dimensions for a tensor of the batch alone."""
    found = re.findall(r'name: "(\w+)"\n +data_type: (\w+)\n +dims: \[ (.*) \](\n +reshape: { shape: \[ \] })?', config)
    return {name: (kind, "" if reshape else dims) for name, kind, dims, reshape in found}


@pytest.mark.parametrize("kind", COMPLETE)
def test_a_complete_model_takes_batches(kind: str, tmp_path: Path):
    make, network, expected = COMPLETE[kind]
    data = make(tmp_path)
    write_complete(export_core(made(network, data, **SMALL.get(network, {})), data), data, {}, tmp_path / "model.onnx")
    config = triton_config(tmp_path / "model.onnx")
    assert entries(config) == expected
    assert "max_batch_size: 64" in config and config.endswith("dynamic_batching { }\n")
    assert 'backend: "onnxruntime"\ndefault_model_filename: "model.onnx"' in config
    assert config.count("output [") == len(expected) - 1


def test_a_model_of_a_fixed_batch_names_all_dimensions(tmp_path: Path):
    data = toy_data(tmp_path, train=30, test=20)
    write_bare(export_core(made("mlp", data), data, batch=4), data, {}, tmp_path / "model.bare.onnx")
    config = triton_config(tmp_path / "model.bare.onnx")
    assert entries(config) == {"images": ("TYPE_FP32", "4, 1, 28, 28"), "logits": ("TYPE_FP32", "4, 10")}
    assert "max_batch_size: 0" in config and "dynamic_batching" not in config
