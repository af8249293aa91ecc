"""An examination restores every state byte for byte, even if a check fails halfway."""

import copy
import random

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tests.components.doctor.base_networks import CNN, MLP
from tests.components.doctor.check_inputs import check_input
from tests.components.doctor.registry import faults, sound_networks
from torchmill.components.doctor.examine import examine
from torchmill.components.doctor.snapshot import preserved_state


def fingerprint(network: nn.Module) -> dict[str, object]:
    """Return every attribute of every layer, with the bytes and the identity of tensors."""
    seen: dict[int, object] = {}

    def describe(value: object) -> object:
        if isinstance(value, Tensor):
            gradient = value.grad if value.is_leaf else None
            grad = None if gradient is None else (id(gradient), gradient.numpy(force=True).tobytes())
            return (
                id(value),
                value.dtype,
                value.data_ptr(),
                value.numpy(force=True).tobytes(),
                value.requires_grad,
                grad,
            )
        if isinstance(value, dict):
            return [(key, describe(inner)) for key, inner in value.items()]
        if isinstance(value, (list, tuple)):
            return [describe(inner) for inner in value]
        if isinstance(value, nn.Module) and id(value) not in seen:
            seen[id(value)] = None
            return describe(vars(value))
        return id(value) if not isinstance(value, (int, float, str, bool)) else value

    return {"network": describe(network)}


def random_states() -> tuple[object, ...]:
    state = np.random.get_state(legacy=False)
    return torch.get_rng_state().tolist(), random.getstate(), state["state"]["key"].tolist(), state["state"]["pos"]


def global_settings() -> tuple[object, ...]:
    hooks = torch.nn.modules.module
    return (
        torch.is_grad_enabled(),
        torch.get_default_dtype(),
        torch.is_anomaly_enabled(),
        len(hooks._global_forward_hooks),
        len(hooks._global_forward_pre_hooks),
    )


FULL = {"mlp", "cnn", "reader", "transformer", "lazy", "spectral_norm", "ownfunctions"}
ALL = [(f.name, f.make, f.inputs, f.loss, f.more, f.level) for f in faults() if f.name != "hugelinear"] + [
    (s.name, s.make, s.inputs, s.loss, s.more, "full" if s.name in FULL else "quick") for s in sound_networks()
]


@pytest.mark.parametrize(("make", "inputs", "loss", "more", "level"), [a[1:] for a in ALL], ids=[a[0] for a in ALL])
def test_an_examination_restores_everything(make, inputs, loss, more, level):
    network = make()
    modules = list(network.modules())
    modules[-1].eval()
    for parameter in list(network.parameters())[:2]:
        parameter.grad = torch.ones_like(parameter)
    calls = []
    handle = modules[0].register_forward_hook(lambda *_: calls.append(1))
    examined = check_input(network, inputs, loss, **more)
    data = examined.inputs.clone(), examined.targets.clone()
    before = fingerprint(network), random_states(), global_settings()
    examine(examined, level)
    assert (fingerprint(network), random_states(), global_settings()) == before
    assert torch.equal(examined.inputs, data[0]) and torch.equal(examined.targets, data[1])
    assert examined.inputs.grad_fn is None and not examined.inputs.requires_grad
    handle.remove()


class Hoarder(nn.Module):
    """Keeps state in unusual places, and changes it in each forward."""

    def __init__(self):
        super().__init__()
        self.inner = MLP()
        self.register_buffer("hidden", torch.zeros(3), persistent=False)
        self.register_buffer("expanded", torch.ones(1).expand(4))
        self.history = [torch.zeros(2)]
        self.calls = 0
        self.memory = {"array": np.zeros(3), "note": "old"}
        self.generator = torch.Generator()
        self.half = torch.ones(4)[:2]

    def forward(self, x):
        self.calls += 1
        self.hidden += 1
        self.history.append(x.detach())
        self.history[0] += 1
        self.memory["array"] += 1
        self.memory["note"] = "new"
        self.half.data = torch.zeros(5)
        torch.rand(1, generator=self.generator)
        random.random()
        np.random.rand()
        self.later = torch.ones(1)
        return self.inner(x)


@pytest.mark.parametrize("level", ["quick", "full"])
def test_unusual_state_is_restored(level):
    network = Hoarder()
    before = fingerprint(network), random_states()
    generator, array = network.generator.get_state(), network.memory["array"]
    examine(check_input(network), level)
    assert (fingerprint(network), random_states()) == before
    assert torch.equal(network.generator.get_state(), generator)
    assert network.memory["array"] is array and not array.any()


def test_a_network_that_cannot_be_copied_is_examined_like_any_other():
    network = next(sound.make() for sound in sound_networks() if sound.name == "notcopyable")
    with pytest.raises(TypeError):
        copy.deepcopy(network)
    before = fingerprint(network)
    assert examine(check_input(network), "full").worst == "pass"
    assert fingerprint(network) == before


def test_an_interrupted_examination_restores_the_state():
    network = CNN()
    before = fingerprint(network), global_settings()

    def interrupted():
        with preserved_state(network):
            network.train()
            network.double()
            network(torch.zeros(4, 3, 16, 16, dtype=torch.float64)).sum().backward()
            network.requires_grad_(False)
            torch.set_grad_enabled(False)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert (fingerprint(network), global_settings()) == before
