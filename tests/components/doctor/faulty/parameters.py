"""Networks with faulty parameters or layer settings."""

import torch
import torch.fx
import torch.utils.checkpoint
from torch import nn
from torch.nn import functional as F

from tests.components.doctor.base_networks import CNN, MLP, Reader
from tests.components.doctor.check_inputs import CLASSES
from tests.components.doctor.registry import fault


@fault("frozen")
def all_frozen():
    return MLP().requires_grad_(False)


@fault("optimizer", "middle", more={"make_optimizer": lambda n: torch.optim.SGD(
    [*n.first.parameters(), n.middle.weight, *n.out.parameters()], 0.1)})  # fmt: skip
def not_in_optimizer():
    return MLP()


@fault("optimizer", more={"make_optimizer": lambda n: torch.optim.SGD([], 0.1)})
def empty_optimizer():
    net = MLP()
    net.seven = 7
    return net


@fault("settings", "drop")
class DropsAll(MLP):
    def __init__(self):
        super().__init__()
        self.drop = nn.Dropout(1.0)

    def forward(self, x):
        hidden = self.hidden(x)
        return self.out(hidden + self.drop(hidden))


@fault("settings", "lstm", "warn", inputs="tokens")
class DropoutWithOneLayer(Reader):
    def __init__(self):
        super().__init__()
        self.lstm.dropout = 0.5


@fault("settings", "norm1", inputs="images")
def zero_momentum():
    return CNN(lambda n: nn.BatchNorm2d(n, momentum=0.0))


@fault("settings", "norm1", "warn", inputs="images")
def keras_momentum():
    return CNN(lambda n: nn.BatchNorm2d(n, momentum=0.99))


@fault("settings", "norm1", "warn", inputs="images")
def momentum_one():
    return CNN(lambda n: nn.BatchNorm2d(n, momentum=1.0))


@fault("settings", "norm1", inputs="images")
def huge_eps():
    return CNN(lambda n: nn.BatchNorm2d(n, eps=100.0))


@fault("wasteful", "conv1", "warn", inputs="images")
def bias_before_norm():
    return CNN(bias=True)


@fault("wasteful", "wide", "warn")
class HugeLinear(MLP):
    def __init__(self):
        super().__init__()
        self.wide = nn.Linear(24 * 200, 2400)
        self.out = nn.Linear(2400, CLASSES)

    def forward(self, x):
        return self.out(torch.relu(self.wide(self.hidden(x).repeat(1, 200))))


@fault("wasteful", "wide", "warn", inputs="images")
class LargeLinear(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 64, 3, padding=1)
        self.wide, self.out = nn.Linear(64 * 16 * 16, 256), nn.Linear(256, CLASSES)

    def forward(self, x):
        return self.out(torch.relu(self.wide(torch.relu(self.conv(x)).flatten(1))))


@fault("constant_weights", "middle")
class ConstantWeights(MLP):
    def __init__(self):
        super().__init__()
        nn.init.constant_(self.middle.weight, 0.1)


@fault("constant_weights", "first", alone=False)
class ZeroWeights(MLP):
    def __init__(self):
        super().__init__()
        for parameter in self.parameters():
            nn.init.zeros_(parameter)


class OwnMatrix(MLP):
    """MLP with a plain matrix, input dimension first, as its middle layer."""

    def __init__(self, weight):
        super().__init__()
        self.weight = nn.Parameter(weight)
        del self.middle

    def hidden(self, x):
        return torch.relu(torch.relu(self.first(x)) @ self.weight)


@fault("constant_weights")
def matrix_of_ones():
    return OwnMatrix(torch.full((24, 24), 0.1))


@fault("constant_weights")
def equal_columns():
    return OwnMatrix(torch.randn(24, 1).repeat(1, 24) / 5)


@fault("constant_weights")
def equal_rows():
    class Transposed(OwnMatrix):
        def hidden(self, x):
            return torch.relu(F.linear(torch.relu(self.first(x)), self.weight))

    return Transposed(torch.randn(1, 24).repeat(24, 1) / 5)


@fault("constant_weights", "rnn", inputs="tokens")
class EqualRecurrentUnits(Reader):
    def __init__(self):
        super().__init__()
        self.rnn = nn.RNN(16, 16, batch_first=True)
        for weight in (self.rnn.weight_ih_l0, self.rnn.weight_hh_l0, self.rnn.bias_ih_l0, self.rnn.bias_hh_l0):
            nn.init.constant_(weight, 0.03)

    def forward(self, tokens):
        states, _ = self.rnn(self.lstm(self.table(tokens))[0])
        return self.out(states[torch.arange(len(tokens), device=tokens.device), (tokens != 0).sum(1) - 1])


@fault("constant_weights")
class BothFactorsZero(MLP):
    def __init__(self):
        super().__init__()
        self.down, self.up = nn.Parameter(torch.zeros(12, 4)), nn.Parameter(torch.zeros(4, 24))

    def forward(self, x):
        return self.out(torch.relu(self.middle(torch.relu(self.first(x) + x @ self.down @ self.up))))


@fault("constant_weights", alone=False)
class TwoZeroMatrices(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Parameter(torch.zeros(12, 24)), nn.Parameter(torch.zeros(24, CLASSES))

    def forward(self, x):
        return torch.tanh(x @ self.first) @ self.second
