"""Networks that compile themselves are built without it, and with the same weights."""

import copy
import logging

import pytest
import torch
from safetensors.torch import save_file

from tests.toy import toy_data
from torchmill.components.initialization.build import build, initialize
from torchmill.components.initialization.config import InitializeConfig, ModelConfig
from torchmill.components.initialization.weights import restore
from torchmill.components.refs import FileRef, NetworkRef

NETWORKS = """
import torch
from torch import nn

class Plain(nn.Module):
    def __init__(self):
        super().__init__()
        self.body, self.head = nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.ReLU()), nn.Linear(8, 10)

    def forward(self, x):
        return self.head(self.body(x))

class Layer(Plain):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(torch.compile(self.body))

class InPlace(Plain):
    def __init__(self):
        super().__init__()
        self.body.compile()

class Method(Plain):
    def __init__(self):
        super().__init__()
        self.forward = torch.compile(self.forward)

class Decorated(Plain):
    @torch.compile
    def forward(self, x):
        return self.head(self.body(x))

def whole():
    return torch.compile(Plain())
"""


@pytest.mark.parametrize("name", ["Layer", "InPlace", "Method", "Decorated", "whole"])
def test_a_network_that_compiles_itself_is_built_without(own, tmp_path, caplog, name):
    reference = own(NETWORKS).rpartition(":")[0]
    data = toy_data(tmp_path, size=8, train=20, test=5)
    with caplog.at_level(logging.INFO, "torchmill"):
        network, _ = initialize(ModelConfig(name=f"{reference}:{name}"), InitializeConfig(), data, 0)
    assert "torch.compile of" in caplog.text and "--train.compile on" in caplog.text
    assert not any("_orig_mod" in key for key in network.state_dict())
    twin = copy.deepcopy(network)
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter.zero_()
    images = torch.rand(3, 1, 8, 8)
    assert not twin(images).any() and network(images).any()  # the copy runs its own weights
    assert torch.isfinite(twin.double()(images.double())).all()
    assert "torch.compile" not in str([type(module) for module in network.modules()])


def test_weights_that_were_written_by_a_compiled_network_are_restored(own, tmp_path):
    reference = own(NETWORKS, "whole")
    data = toy_data(tmp_path, size=8, train=20, test=5)
    network = build(reference, {}, data)
    state = {f"_orig_mod.{name}": torch.rand_like(value) for name, value in network.state_dict().items()}
    save_file(state, tmp_path / "old.safetensors")
    weights = FileRef.of(tmp_path / "old.safetensors")
    ref = NetworkRef(reference=reference, arguments={}, weights=weights, parameters=1)
    restored = restore(ref, weights, data).state_dict()
    assert all(torch.equal(restored[name.removeprefix("_orig_mod.")], value) for name, value in state.items())
