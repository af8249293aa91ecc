"""An examination restores every state byte for byte, even if a check fails halfway.

``examinations.examine`` asserts it for every sound and every faulty network.
"""

import copy
import random

import numpy as np
import pytest
import torch
from torch import nn

from tests.components.doctor import examinations
from tests.components.doctor.base_networks import CNN, MLP
from tests.components.doctor.check_inputs import check_input
from tests.components.doctor.examinations import fingerprint, global_settings, random_states
from tests.components.doctor.registry import faults, sound_networks
from torchmill.components.doctor.examine import examine
from torchmill.components.doctor.snapshot import preserved_state


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


def test_a_network_that_ignores_evaluation_mode_is_restored():
    (fault,) = (fault for fault in faults() if fault.name == "staysintraining")
    examinations.examine(check_input(fault.make(), fault.inputs, fault.loss, **fault.more))


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
