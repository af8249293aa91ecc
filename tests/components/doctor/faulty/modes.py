"""Networks whose outputs or state change from run to run or with the mode."""

import random
from typing import Any, ClassVar

import torch
import torch.fx
import torch.utils.checkpoint
from torch import nn
from torch.nn import functional as F

from tests.components.doctor.base_networks import CNN, MLP, MaskedMean, Reader
from tests.components.doctor.registry import fault


@fault("deterministic")
class AlwaysDrops(MLP):
    def forward(self, x):
        return self.out(F.dropout(self.hidden(x), 0.3))


@fault("deterministic", "drop")
class StaysInTraining(MLP):
    def __init__(self):
        super().__init__()
        self.drop = nn.Dropout(0.3)

    def train(self, mode=True):
        self.training = mode
        return self

    def forward(self, x):
        return self.out(self.drop(self.hidden(x)))


@fault("deterministic", "middle")
class NoisyLayer(MLP):
    def __init__(self):
        super().__init__()
        self.middle = Noisy(24, 24)


class Noisy(nn.Linear):
    def forward(self, x):
        return super().forward(x + torch.randn_like(x))


@fault("deterministic", "lstm", inputs="tokens")
class KeepsState(Reader):
    def __init__(self):
        super().__init__()
        self.lstm = Remembering(12, 16, batch_first=True)


class Remembering(nn.LSTM):
    state: Any = None

    def forward(self, x):
        if self.state is None or self.state[0].shape[1] != len(x):
            self.state = None
        output, state = super().forward(x, self.state)
        self.state = tuple(value.detach() for value in state)
        return output, state


@fault("deterministic", "middle")
class CachesFeaturesByBatchSize(MLP):
    """The cache is keyed by the batch size."""

    def __init__(self):
        super().__init__()
        self.middle = Cached(24, 24)


class Cached(nn.Linear):
    def __init__(self, *sizes):
        super().__init__(*sizes)
        self.cache = {}

    def forward(self, x):
        y = super().forward(x)
        return y + self.cache.setdefault(len(x), y.detach())


@fault("deterministic", inputs="tokens")
class MaskOfTheFirstBatch(MaskedMean):
    kept = None

    def forward(self, tokens):
        if self.kept is None or self.kept.shape[:2] != tokens.shape:
            self.kept = (tokens != 0).unsqueeze(2)
        return self.out((self.table(tokens) * self.kept).sum(1) / self.kept.sum(1))


@fault("deterministic")
class SharesACache(MLP):
    """All objects of the class share the cache."""

    means: ClassVar = {}

    def forward(self, x):
        return super().forward(x - self.means.setdefault(x.shape, x.mean(0)))


@fault("modes", "", "warn")
class NeverDrops(MLP):
    def forward(self, x):
        return self.out(F.dropout(self.hidden(x), 0.3, training=False))


@fault("modes", "drop", "warn")
class DropoutNotCalled(MLP):
    def __init__(self):
        super().__init__()
        self.drop = nn.Dropout(0.3)


@fault("modes", "norm1", inputs="images")
class NormStuck(CNN):
    def train(self, mode=True):
        super().train(mode)
        self.norm1.eval()
        return self


@fault("modes", "", "warn")
class DiffersInTraining(MLP):
    def forward(self, x):
        x = super().forward(x)
        return x if self.training else 3 * x


@fault("modes", "", "warn", more={"samples": 64})
class UnscaledDropout(MLP):
    def forward(self, x):
        x = self.hidden(x)
        return self.out(x * (torch.rand_like(x) > 0.5) if self.training else x)


@fault("side_effects")
class EvalInForward(MLP):
    def __init__(self):
        super().__init__()
        self.drop = nn.Dropout(0.5)

    def forward(self, x):
        self.eval()
        return self.out(self.drop(self.hidden(x)))


@fault("side_effects")
class ChangesInput(MLP):
    def forward(self, x):
        x *= 0.5
        return super().forward(x)


@fault("side_effects", "relu")
class ReluOnInput(MLP):
    def __init__(self):
        super().__init__()
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x):
        return super().forward(self.relu(x))


@fault("side_effects", alone=False)
class TurnsGradientsOff(MLP):
    def forward(self, x):
        x = super().forward(x)
        torch.set_grad_enabled(False)
        return x


@fault("side_effects", "first", alone=False)
class ChangesWeights(MLP):
    def forward(self, x):
        self.first.weight.data.mul_(0.9)
        return super().forward(x)


@fault("side_effects", "middle", "warn")
class ClampsWeights(MLP):
    def forward(self, x):
        self.middle.weight.data.clamp_(-1, 1)
        return super().forward(x)


@fault("side_effects", "out", "warn")
class MasksWeights(MLP):
    def __init__(self):
        super().__init__()
        self.register_buffer("mask", (torch.arange(24) % 3 > 0).float())
        with torch.no_grad():
            self.out.weight *= self.mask

    def forward(self, x):
        with torch.no_grad():
            self.out.weight *= self.mask
        return super().forward(x)


@fault("seeds")
class SetsSeed(MLP):
    def forward(self, x):
        torch.manual_seed(0)
        return self.out(F.dropout(self.hidden(x), training=self.training))


@fault("seeds")
class SetsPythonSeed(MLP):
    def forward(self, x):
        random.seed(3)
        return super().forward(x)


@fault("deterministic", "Dropout")
class DropoutInForward(MLP):
    def forward(self, x):
        return self.out(nn.Dropout(0.5)(self.hidden(x)))
