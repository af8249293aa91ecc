"""Sound networks with unusual weights: parametrized, zero, frozen, complex or averaged."""

import torch
import torch.fx
import torch.utils.checkpoint
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations, parametrize

from tests.components.doctor.base_networks import MLP, Holder
from tests.components.doctor.registry import sound


@sound(loss="mse")
class LargeFirstOutputs(MLP):
    """Outputs with a variance of about 2, as Xavier initialization gives after a ReLU."""

    def __init__(self):
        super().__init__()
        for layer in (self.first, self.middle):
            nn.init.kaiming_normal_(layer.weight)
        nn.init.normal_(self.out.weight, std=0.3)


@sound()
class ZeroInitHead(MLP):
    def __init__(self):
        super().__init__()
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)


@sound()
class ReZero(MLP):
    def __init__(self):
        super().__init__()
        self.gate = nn.Parameter(torch.zeros(()))

    def forward(self, x):
        x = torch.relu(self.first(x))
        return self.out(x + self.gate * torch.relu(self.middle(x)))


@sound()
class LoRA(MLP):
    def __init__(self):
        super().__init__()
        self.middle.requires_grad_(False)
        self.down, self.up = nn.Linear(24, 4, bias=False), nn.Linear(4, 24, bias=False)
        nn.init.zeros_(self.up.weight)

    def forward(self, x):
        x = torch.relu(self.first(x))
        return self.out(torch.relu(self.middle(x) + self.up(self.down(x))))


@sound()
def spectral_norm():
    network = MLP()
    parametrizations.spectral_norm(network.middle)
    return network


@sound()
def weight_norm():
    network = MLP()
    parametrizations.weight_norm(network.middle)
    return network


@sound()
def orthogonal():
    network = MLP()
    parametrizations.orthogonal(network.middle)
    return network


class Symmetric(nn.Module):
    def forward(self, weight):
        return weight.triu() + weight.triu(1).t()


@sound()
def own_parametrization():
    network = MLP()
    parametrize.register_parametrization(network.middle, "weight", Symmetric())
    return network


@sound()
def old_spectral_norm():
    network = MLP()
    torch.nn.utils.spectral_norm(network.middle)
    return network


@sound(warns={"registered"})
class KeepsAnAverage(MLP):
    """Average of the weights in a plain object, which forward does not use."""

    def __init__(self):
        super().__init__()
        self.average = Holder(nn.Linear(12, 24))


@sound(warns={"registered"})
class FrozenTeacher(MLP):
    def __init__(self):
        super().__init__()
        self.teacher = [MLP().requires_grad_(False)]


@sound()
class CosineHead(MLP):
    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(5.0))

    def forward(self, x):
        return self.scale * F.linear(F.normalize(self.hidden(x)), F.normalize(self.out.weight), self.out.bias)


@sound()
class ComplexWeights(MLP):
    def __init__(self):
        super().__init__()
        self.spectrum = nn.Parameter(torch.randn(13, 13, dtype=torch.complex64) / 4)

    def forward(self, x):
        x = torch.fft.irfft(torch.fft.rfft(torch.relu(self.first(x))) @ self.spectrum.to(torch.complex64), n=24)
        return self.out(torch.relu(self.middle(x)))
