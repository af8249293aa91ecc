import copy
from dataclasses import dataclass
from pathlib import Path

import onnx
import pytest
from torch import nn

from torchmill.components.export.to_onnx import to_onnx
from torchmill.components.refs import DataRef

METADATA = {"network": "simple_cnn", "test_accuracy": "0.987654"}


@dataclass(frozen=True)
class Exported:
    network: nn.Module
    path: Path

    def proto(self) -> onnx.ModelProto:
        return onnx.load(self.path)


@pytest.fixture(scope="session")
def exported(_trained: nn.Module, toy: DataRef, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """The trained network and its ONNX file; to look at, not to change."""
    network = copy.deepcopy(_trained)
    path = tmp_path_factory.mktemp("exported") / "model.onnx"
    to_onnx(network, toy, METADATA, path)
    return Exported(network, path)
