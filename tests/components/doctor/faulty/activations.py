"""Networks with doubled, missing, misplaced or dead activations."""

import torch
import torch.fx
import torch.utils.checkpoint
from torch import nn
from torch.nn import functional as F

from tests.components.doctor.base_networks import MLP
from tests.components.doctor.registry import fault


@fault("last_activation", "softmax")
class SoftmaxTwice(MLP):
    def __init__(self):
        super().__init__()
        self.softmax = nn.Softmax(1)

    def forward(self, x):
        return self.softmax(super().forward(x))


@fault("last_activation", "", "warn")
class LogSoftmaxTwice(MLP):
    def forward(self, x):
        return F.log_softmax(super().forward(x), 1)


@fault("last_activation", loss="bce")
class SigmoidTwice(MLP):
    def forward(self, x):
        return torch.sigmoid(super().forward(x))


@fault("last_activation")
class ReluOnLogits(MLP):
    def forward(self, x):
        return F.relu(super().forward(x))


@fault("last_activation")
class TanhOnLogits(MLP):
    def forward(self, x):
        return super().forward(x).tanh()


@fault("last_activation")
class ClampedLogits(MLP):
    def forward(self, x):
        return super().forward(x).clamp(-1, 1)


@fault("last_activation", "end", "warn")
class LeakyReluOnLogits(MLP):
    def __init__(self):
        super().__init__()
        self.end = nn.LeakyReLU()

    def forward(self, x):
        return self.end(super().forward(x))


@fault("last_activation", loss="mse")
class SigmoidForRegression(MLP):
    def forward(self, x):
        return super().forward(x).sigmoid()


@fault("last_activation", loss="huber")
class ReluForRegression(MLP):
    def forward(self, x):
        return super().forward(x).relu()


@fault("last_activation", "drop")
class DropoutOnLogits(MLP):
    def __init__(self):
        super().__init__()
        self.drop = nn.Dropout(0.5)

    def forward(self, x):
        return self.drop(super().forward(x))


@fault("activations", "", "warn")
class ReluTwice(MLP):
    def forward(self, x):
        return self.out(self.hidden(x).relu())


@fault("activations", "", "warn")
class SigmoidOfRelu(MLP):
    def forward(self, x):
        return self.out(torch.sigmoid(self.hidden(x)))


@fault("activations", "sigmoid", "warn")
class SigmoidOfTanh(MLP):
    def __init__(self):
        super().__init__()
        self.sigmoid = nn.Sigmoid()

    def forward(self, x):
        return self.out(self.sigmoid(torch.tanh(self.middle(self.first(x).relu()))))


@fault("activations", "middle", "warn")
class NoActivation(MLP):
    def forward(self, x):
        return self.out(torch.relu(self.middle(self.first(x))))


@fault("dead_activation", "relu")
class DeadRelu(MLP):
    def __init__(self):
        super().__init__()
        self.relu = nn.ReLU()
        nn.init.constant_(self.middle.bias, -100.0)

    def forward(self, x):
        return self.out(self.relu(self.middle(torch.relu(self.first(x)))))


@fault("dead_activation", "", alone=False)
class SaturatedTanh(MLP):
    def __init__(self):
        super().__init__()
        nn.init.normal_(self.first.weight, std=1000.0)

    def forward(self, x):
        return self.out(torch.relu(self.middle(torch.tanh(self.first(x)))))
