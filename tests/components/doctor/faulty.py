"""Networks that are sound but for one fault each, and what the doctor should say of it."""

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pack_padded_sequence

from tests.components.doctor.cases import CLASSES


@dataclass
class Fault:
    """One fault: a maker of the network, how it is examined, and the verdict that must be among those given."""

    name: str
    make: Callable[[], nn.Module]
    check: str
    layer: str = ""
    verdict: str = "fail"
    inputs: str = "features"
    loss: str = "cross_entropy"
    level: str = "quick"
    more: dict[str, Any] = field(default_factory=dict)
    alone: bool = True
    """Whether no other check fails of it."""


FAULTS: list[Fault] = []


def fault(check: str, layer: str = "", verdict: str = "fail", **more: Any):
    """Plant the network that the class or function below makes."""

    def plant(make):
        FAULTS.append(Fault(make.__name__.strip("_").lower(), make, check, layer, verdict, **more))
        return make

    return plant


class MLP(nn.Module):
    """A sound one, whose parts the faulty ones exchange."""

    def __init__(self, outputs: int = CLASSES):
        super().__init__()
        self.first = nn.Linear(12, 24)
        self.middle = nn.Linear(24, 24)
        self.out = nn.Linear(24, outputs)

    def hidden(self, x: Tensor) -> Tensor:
        return torch.relu(self.middle(torch.relu(self.first(x))))

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.hidden(x))


class CNN(nn.Module):
    def __init__(self, norm=nn.BatchNorm2d, bias=False):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 8, 3, padding=1, bias=bias)
        self.norm1 = norm(8)
        self.conv2 = nn.Conv2d(8, 16, 3, padding=1)
        self.out = nn.Linear(16, CLASSES)

    def features(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(torch.relu(self.norm1(self.conv1(x))), 2)
        return torch.relu(self.conv2(x))

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.features(x).mean((2, 3)))


class Reader(nn.Module):
    """A recurrent classifier over tokens that takes the state at the last real one."""

    def __init__(self, batch_first=True, rows=30):
        super().__init__()
        self.table = nn.Embedding(rows, 12, padding_idx=0)
        self.lstm = nn.LSTM(12, 16, batch_first=batch_first)
        self.out = nn.Linear(16, CLASSES)

    def forward(self, tokens: Tensor) -> Tensor:
        states, _ = self.lstm(self.table(tokens))
        last = (tokens != 0).sum(1) - 1
        return self.out(states[torch.arange(len(tokens), device=tokens.device), last])


class MaskedMean(nn.Module):
    """A mean over real tokens of what a layer makes of them."""

    def __init__(self, layer=None):
        super().__init__()
        self.table = nn.Embedding(30, 16, padding_idx=0)
        self.layer = layer or nn.Identity()
        self.out = nn.Linear(16, CLASSES)

    def mixed(self, x, tokens):
        return self.layer(x)

    def forward(self, tokens):
        kept = (tokens != 0).unsqueeze(2)
        return self.out((self.mixed(self.table(tokens), tokens) * kept).sum(1) / kept.sum(1))


# Forward


@fault("forward", "out")
class WrongWidth(MLP):
    def __init__(self):
        super().__init__()
        self.out = nn.Linear(20, CLASSES)


@fault("forward", "out")
def too_many_outputs():
    return MLP(CLASSES + 2)


@fault("forward", "pool", inputs="images")
class PooledToNothing(CNN):
    def __init__(self):
        super().__init__()
        self.pool = nn.MaxPool2d(32)

    def forward(self, x):
        return self.out(self.pool(self.features(x)).flatten(1))


@fault("forward", "table", inputs="tokens")
def token_out_of_range():
    return Reader(rows=20)


@fault("forward")
class ReturnsPrediction(MLP):
    def forward(self, x):
        return F.one_hot(self.out(self.hidden(x)).argmax(1), CLASSES)


@fault("forward")
class ReturnsDict(MLP):
    def forward(self, x):
        return {f"logits {CLASSES}": super().forward(x)}


@fault("forward")
class WithoutForward(nn.Module):
    def __init__(self):
        super().__init__()
        self.out = nn.Linear(12, CLASSES)


@fault("finite", "first")
class NanWeight(MLP):
    def __init__(self):
        super().__init__()
        with torch.no_grad():
            self.first.weight[0, 0] = float("nan")


@fault("finite")
class DividesByZero(MLP):
    def forward(self, x):
        return self.out(self.hidden(x)) / (x[:, :1] - x[:, :1])


@fault("loss_at_start", "out")
class HugeWeights(MLP):
    def __init__(self):
        super().__init__()
        nn.init.normal_(self.middle.weight, std=5)
        nn.init.normal_(self.out.weight, std=5)


@fault("loss_at_start", "out", "warn")
class LargeWeights(MLP):
    def __init__(self):
        super().__init__()
        for layer in (self.first, self.middle):
            nn.init.kaiming_normal_(layer.weight)
        nn.init.normal_(self.out.weight, std=2.0)


@fault("loss_at_start", more={"num_outputs": 1}, alone=False)
def one_output():
    return MLP(1)


@fault("loss_at_start", "out", "warn", loss="bce")
class BiasOfRareLabels(MLP):
    def __init__(self):
        super().__init__()
        nn.init.constant_(self.out.bias, -5.0)


@fault("constant_output", alone=False)
class IgnoresInput(MLP):
    def forward(self, x):
        return super().forward(torch.ones_like(x)) + x.sum() * 0


# Structure


@fault("registered", "layers[0]")
class PlainList(MLP):
    def __init__(self):
        super().__init__()
        self.layers = [nn.Linear(24, 24), nn.Linear(24, 24)]

    def forward(self, x):
        x = self.hidden(x)
        for layer in self.layers:
            x = torch.relu(layer(x))
        return self.out(x)


@fault("registered", "parts['heads'][1][0]")
class NestedDict(MLP):
    def __init__(self):
        super().__init__()
        self.parts = {"heads": [nn.ReLU(), (nn.Linear(24, 24),)]}

    def forward(self, x):
        relu, (layer,) = self.parts["heads"]
        return self.out(relu(layer(self.hidden(x))))


@fault("registered", "scales[0]")
class ParameterInList(MLP):
    def __init__(self):
        super().__init__()
        self.scales = [nn.Parameter(torch.ones(24))]

    def forward(self, x):
        return self.out(self.hidden(x) * self.scales[0])


@fault("registered", "first", "warn", alone=False)
class GivesItsHeadAlone(MLP):
    def parameters(self, recurse=True):
        return self.out.parameters(recurse)


class Holder:
    """No module: torch does not look into it."""

    def __init__(self, *layers):
        self.layers = layers
        self.itself = self

    def __call__(self, x):
        for layer in self.layers:
            x = torch.relu(layer(x))
        return x


@fault("registered", "holder.layers[0]")
class InAnObject(MLP):
    def __init__(self):
        super().__init__()
        self.holder = Holder(nn.Linear(24, 24))

    def hidden(self, x):
        return self.holder(super().hidden(x))


@fault("backward_method")
class BackwardMethod(MLP):
    def backward(self, gradient):
        return gradient * 2


@fault("frozen")
def all_frozen():
    return MLP().requires_grad_(False)


@fault("shared", "layers.0", "warn")
class SameLayerThrice(MLP):
    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(*[nn.Linear(24, 24), nn.ReLU()] * 3)

    def forward(self, x):
        return self.out(self.layers(self.hidden(x)))


@fault("shared", "first", "warn")
class SameParameter(MLP):
    def __init__(self):
        super().__init__()
        self.first = nn.Linear(12, 24)
        self.middle.bias = self.first.bias


@fault("shared", "middle", "warn")
class SharesMemory(MLP):
    def __init__(self):
        super().__init__()
        self.extra = nn.Linear(24, 24)
        self.extra.weight.data = self.middle.weight.data

    def hidden(self, x):
        return torch.relu(self.extra(super().hidden(x)))


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
class DropoutBetweenOneLayer(Reader):
    def __init__(self):
        super().__init__()
        self.lstm.dropout = 0.5


@fault("settings", "norm1", inputs="images")
def momentum_of_zero():
    return CNN(lambda n: nn.BatchNorm2d(n, momentum=0.0))


@fault("settings", "norm1", "warn", inputs="images")
def momentum_of_keras():
    return CNN(lambda n: nn.BatchNorm2d(n, momentum=0.99))


@fault("settings", "norm1", "warn", inputs="images")
def momentum_of_one():
    return CNN(lambda n: nn.BatchNorm2d(n, momentum=1.0))


@fault("shared_norm", "norm1", "warn", inputs="images")
class NormAtTwoPlaces(CNN):
    def __init__(self):
        super().__init__()
        self.extra = nn.Conv2d(8, 8, 3, padding=1, bias=False)

    def features(self, x):
        x = torch.relu(self.norm1(self.conv1(x)))
        return torch.relu(self.conv2(torch.relu(self.norm1(self.extra(x)))))


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
    """Whose middle is a matrix of its own, inputs first."""

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


# Plain tensors, device, type


@fault("plain_tensor")
class PlainTensor(MLP):
    def __init__(self):
        super().__init__()
        self.mean = torch.zeros(12)

    def forward(self, x):
        return super().forward(x - self.mean)


@fault("plain_tensor", "inner")
class TensorForParameter(MLP):
    def __init__(self):
        super().__init__()
        self.inner = nn.Identity()
        self.inner.scale = torch.ones(12, requires_grad=True)

    def forward(self, x):
        return super().forward(x * self.inner.scale.detach())


@fault("plain_tensor", "middle", "warn")
class KeepsALog(MLP):
    def __init__(self):
        super().__init__()
        self.middle.log = []

    def forward(self, x):
        self.middle.log.append(self.hidden(x).mean())
        return super().forward(x)


@fault("plain_tensor", "", "warn")
class KeepsFeatures(MLP):
    def forward(self, x):
        self.features = self.hidden(x)
        return self.out(self.features)


@fault("device")
class MadeOnCpu(MLP):
    def forward(self, x):
        return super().forward(x + torch.zeros(len(x), 12) + 0.0)


@fault("device", "table", inputs="tokens")
class PositionsOnCpu(Reader):
    def __init__(self):
        super().__init__()
        self.table = Positions()


class Positions(nn.Embedding):
    def __init__(self):
        super().__init__(30, 12, padding_idx=0)
        self.positions = nn.Embedding(50, 12)

    def forward(self, tokens):
        return super().forward(tokens) + self.positions.weight[: tokens.shape[1]] * torch.ones(tokens.shape[1], 1)


@fault("device", "lstm", inputs="tokens")
class StateOnCpu(Reader):
    def forward(self, tokens):
        state = torch.zeros(1, len(tokens), 16)
        states, _ = self.lstm(self.table(tokens), (state, torch.zeros_like(state)))
        return self.out(states[torch.arange(len(tokens), device=tokens.device), (tokens != 0).sum(1) - 1])


@fault("device", "first")
class InputToCpu(MLP):
    def forward(self, x):
        return super().forward(x.to("cpu"))


@fault("device", "out")
class HiddenToCpu(MLP):
    def forward(self, x):
        return self.out(self.hidden(x).cpu())


@fault("device")
class OutputToCpu(MLP):
    def forward(self, x):
        return super().forward(x).to(device="cpu")


@fault("device")
class InputThroughNumPy(MLP):
    def forward(self, x):
        return super().forward(x + torch.from_numpy(x.detach().numpy() ** 2))


@fault("dtype", "", level="full")
class FixedType(MLP):
    def forward(self, x):
        return super().forward(x) @ torch.eye(CLASSES, dtype=torch.float32, device=x.device)


# Batch


@fault("mixing", "shuffle")
class ViewMixes(MLP):
    def __init__(self):
        super().__init__()
        self.shuffle = Shuffle()

    def forward(self, x):
        return self.out(self.shuffle(self.hidden(x)))


class Shuffle(nn.Module):
    def forward(self, x):
        return x.t().reshape(x.shape)


@fault("mixing", "lstm", inputs="tokens", alone=False)
def not_batch_first():
    return Reader(batch_first=False)


@fault("mixing", "norm1", inputs="images")
def batch_statistics_in_evaluation():
    return CNN(lambda n: nn.BatchNorm2d(n, track_running_stats=False))


@fault("mixing", "gate")
class SoftmaxOverBatch(MLP):
    def __init__(self):
        super().__init__()
        self.gate = nn.Softmax(dim=0)

    def forward(self, x):
        return self.out(self.gate(self.hidden(x)))


@fault("mixing")
class DeviationOfTheBatch(MLP):
    """Which is nan for a batch of one: a consequence."""

    def forward(self, x):
        return super().forward(x / x.std(0))


@fault("mixing")
class MinusBatchMean(MLP):
    def forward(self, x):
        x = self.hidden(x)
        return self.out(x - x.mean(0))


@fault("mixing", "attention", inputs="images")
class AttentionOverBatch(CNN):
    def __init__(self):
        super().__init__()
        self.attention = nn.MultiheadAttention(16, 2)

    def forward(self, x):
        tokens = self.features(x).flatten(2).transpose(1, 2)
        return self.out(self.attention(tokens, tokens, tokens)[0].mean(1))


@fault("mixing", "", "warn")
class MixesInTraining(MLP):
    def forward(self, x):
        x = self.hidden(x)
        return self.out(x - 0.5 * x.mean(0) if self.training else x)


@fault("batch_size")
class FixedBatch(MLP):
    def forward(self, x):
        return self.out(self.hidden(x).view(16, -1))


@fault("batch_size")
class Squeezes(MLP):
    def forward(self, x):
        return super().forward(x).squeeze()


# Activations


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


# Modes and chance


@fault("determined")
class AlwaysDrops(MLP):
    def forward(self, x):
        return self.out(F.dropout(self.hidden(x), 0.3))


@fault("determined", "drop")
class StaysInTraining(MLP):
    def __init__(self):
        super().__init__()
        self.drop = nn.Dropout(0.3)

    def train(self, mode=True):
        self.training = mode
        return self

    def forward(self, x):
        return self.out(self.drop(self.hidden(x)))


@fault("determined", "middle")
class NoisyLayer(MLP):
    def __init__(self):
        super().__init__()
        self.middle = Noisy(24, 24)


class Noisy(nn.Linear):
    def forward(self, x):
        return super().forward(x + torch.randn_like(x))


@fault("determined", "lstm", inputs="tokens")
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


@fault("determined", "middle")
class KeepsFeaturesOfABatch(MLP):
    """By the batch's size."""

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


@fault("determined", inputs="tokens")
class MaskOfTheFirstBatch(MaskedMean):
    kept = None

    def forward(self, tokens):
        if self.kept is None or self.kept.shape[:2] != tokens.shape:
            self.kept = (tokens != 0).unsqueeze(2)
        return self.out((self.table(tokens) * self.kept).sum(1) / self.kept.sum(1))


@fault("determined")
class SharesACache(MLP):
    """Among all objects of its class."""

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
class OtherInTraining(MLP):
    def forward(self, x):
        x = super().forward(x)
        return x if self.training else 3 * x


@fault("modes", "", "warn", more={"samples": 64})
class OwnDropoutUnscaled(MLP):
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


# Gradients


@fault("made_in_forward")
class LayerInForward(MLP):
    def forward(self, x):
        return self.out(nn.Linear(24, 24)(self.hidden(x)).relu())


@fault("made_in_forward")
class ParameterInForward(MLP):
    def forward(self, x):
        return self.out(self.hidden(x) * nn.Parameter(torch.ones(24, device=x.device)))


@fault("made_in_forward")
class LayerInClosure(MLP):
    def __init__(self):
        super().__init__()
        layer = nn.Linear(24, 24)
        self.extra = lambda x: layer(x).relu()

    def forward(self, x):
        return self.out(self.extra(self.hidden(x)))


@fault("reached", "unused")
class UnusedLayer(MLP):
    def __init__(self):
        super().__init__()
        self.unused = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))


@fault("reached", "extra")
class DropsAResult(MLP):
    def __init__(self):
        super().__init__()
        self.extra = nn.Linear(24, 24)

    def forward(self, x):
        x = self.hidden(x)
        self.extra(x).relu()
        return self.out(x)


@fault("made_in_forward")
class NoLongerAParameter(MLP):
    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.randn(24)) * 0.02

    def forward(self, x):
        return self.out(self.hidden(x) * (1 + self.scale))


@fault("reached", "first")
class Detached(MLP):
    def forward(self, x):
        return self.out(torch.relu(self.middle(torch.relu(self.first(x)).detach())))


@fault("reached", "first")
class UsesData(MLP):
    def forward(self, x):
        return self.out(torch.relu(self.middle(self.first(x).relu().data)))


@fault("reached", "first")
class WithoutGradient(MLP):
    def forward(self, x):
        with torch.no_grad():
            x = self.first(x).relu()
        return self.out(torch.relu(self.middle(x)))


@fault("reached", alone=False)
class ThroughNumPy(MLP):
    def forward(self, x):
        x = self.out(self.hidden(x))
        return torch.from_numpy(x.detach().numpy() + 1).to(x)


@fault("reached", "branch")
class TimesZero(MLP):
    def __init__(self):
        super().__init__()
        self.branch = nn.Linear(24, 24)

    def forward(self, x):
        x = self.hidden(x)
        return self.out(x + 0 * self.branch(x))


@fault("reached", "first")
class Rounds(MLP):
    def forward(self, x):
        return self.out(torch.relu(self.middle(torch.round(3 * torch.relu(self.first(x))))))


@fault("reached", "middle")
class GradientTimesZero(MLP):
    def __init__(self):
        super().__init__()
        for parameter in self.middle.parameters():
            parameter.register_hook(lambda gradient: gradient * 0)


@fault("batch_size", more={"samples": 64})
class FixedBatchOf64(MLP):
    def forward(self, x):
        return self.out(self.hidden(x).view(64, -1))


@fault("seeds")
class SetsSeedOfPython(MLP):
    def forward(self, x):
        random.seed(3)
        return super().forward(x)


@fault("determined", "Dropout")
class DropoutInForward(MLP):
    def forward(self, x):
        return self.out(nn.Dropout(0.5)(self.hidden(x)))


@fault("forward", loss="mse", more={"num_outputs": 1})
class SqueezedRegression(MLP):
    def __init__(self):
        super().__init__(1)

    def forward(self, x):
        return super().forward(x).squeeze(1)


@fault("forward")
class CatOfBatches(MLP):
    def forward(self, x):
        x = super().forward(x)
        return torch.cat([x, x])


@fault("attention_mask", "attention", inputs="tokens", alone=False)
class InvertedMask(nn.Module):
    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(30, 16)
        self.attention = nn.MultiheadAttention(16, 2, batch_first=True)
        self.out = nn.Linear(16, CLASSES)

    def forward(self, tokens):
        x = self.table(tokens)
        mask = (tokens != 0) & (tokens[:, -1:] == 0)
        return self.out(self.attention(x, x, x, key_padding_mask=mask)[0][:, 0])


@fault("made_in_forward")
class NormInForward(MLP):
    def forward(self, x):
        return self.out(nn.BatchNorm1d(24)(self.hidden(x)))


@fault("backward", "sigmoid")
class ModifiedInPlace(MLP):
    def __init__(self):
        super().__init__()
        self.sigmoid = nn.Sigmoid()

    def forward(self, x):
        x = self.sigmoid(self.first(x))
        x += 1
        return self.out(torch.relu(self.middle(x)))


@fault("units", "first", "warn")
class MostlyDead(MLP):
    def __init__(self):
        super().__init__()
        nn.init.constant_(self.first.bias[:17], -50)


@fault("units", "first", "warn")
class HalfIsNotUsed(MLP):
    def __init__(self):
        super().__init__()
        self.first = nn.Linear(12, 48)

    def hidden(self, x):
        return torch.relu(self.middle(torch.relu(self.first(x))[:, :24]))


@fault("units", "conv2", "warn", inputs="images")
class HalfOfTheChannels(CNN):
    def __init__(self):
        super().__init__()
        self.conv2 = nn.Conv2d(8, 32, 3, padding=1)

    def features(self, x):
        return super().features(x).chunk(2, 1)[1]


@fault("hooks", "middle", "warn")
class HookTurnsGradient(MLP):
    def __init__(self):
        super().__init__()
        self.middle.weight.register_hook(lambda gradient: -gradient)


@fault("hooks", "first", "warn")
class HookOfLayerTurnsGradient(MLP):
    def __init__(self):
        super().__init__()
        self.middle.register_full_backward_hook(lambda _, inputs, __: tuple(-2 * one for one in inputs))


@fault("gradient_size", "first")
class NanGradient(MLP):
    def forward(self, x):
        x = self.first(x)
        return self.out(torch.relu(self.middle(torch.sqrt(x * (x > 0)))))


@fault("gradient_size", "layers.0", "warn", alone=False)
class Vanishes(MLP):
    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(*[part for _ in range(10) for part in (nn.Linear(12, 12), nn.Sigmoid())])
        self.first = nn.Linear(12, 24)

    def forward(self, x):
        return super().forward(self.layers(x))


# Functions with a backward of their own


class WrongSquare(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x**2

    @staticmethod
    def backward(ctx, gradient):  # ty: ignore[invalid-method-override]
        (x,) = ctx.saved_tensors
        return gradient * x


class WrongWeight(torch.autograd.Function):
    @staticmethod
    def forward(x, weight):
        return x @ weight.t()

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx, gradient):  # ty: ignore[invalid-method-override]
        x, weight = ctx.saved_tensors
        return gradient @ weight, gradient.t() @ x / len(x)


class WrongShape(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x * 2

    @staticmethod
    def backward(ctx, gradient):  # ty: ignore[invalid-method-override]
        return gradient.sum(1)


class HalvesInPlace(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x.relu()

    @staticmethod
    def backward(ctx, gradient):  # ty: ignore[invalid-method-override]
        (x,) = ctx.saved_tensors
        gradient[x < 0] = 0
        gradient *= 0.5
        return gradient


class CutsInPlace(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x.relu()

    @staticmethod
    def backward(ctx, gradient):  # ty: ignore[invalid-method-override]
        (x,) = ctx.saved_tensors
        return gradient.masked_fill_(x < 0, 0)


class Sign(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.sign()

    @staticmethod
    def backward(ctx, gradient):  # ty: ignore[invalid-method-override]
        return gradient


class Reversal(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.view_as(x)

    @staticmethod
    def backward(ctx, gradient):  # ty: ignore[invalid-method-override]
        return -gradient


class Applies(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.apply_it = function.apply

    def forward(self, x):
        return self.apply_it(x)


class WithFunction(MLP):
    def __init__(self, function):
        super().__init__()
        self.custom = Applies(function)

    def forward(self, x):
        return self.out(self.custom(self.hidden(x) - 0.1))


@fault("custom_function", "custom")
def wrong_backward():
    return WithFunction(WrongSquare)


@fault("custom_function", "custom")
def wrong_backward_in_place():
    return WithFunction(HalvesInPlace)


@fault("custom_function", "custom", "warn")
def right_backward_in_place():
    return WithFunction(CutsInPlace)


@fault("custom_function", "middle")
class WrongBackwardOfWeight(MLP):
    def __init__(self):
        super().__init__()
        self.middle = OwnLinear(24, 24, bias=False)


class OwnLinear(nn.Linear):
    def forward(self, x):
        return WrongWeight.apply(x, self.weight)


@fault("backward", "custom")
def backward_of_wrong_shape():
    return WithFunction(WrongShape)


@fault("custom_function", "custom", "warn")
def straight_through():
    return WithFunction(Sign)


@fault("custom_function", "custom", "warn")
def reversed_gradient():
    return WithFunction(Reversal)


# Padding, overfitting, export


@fault("padding", inputs="tokens")
class MeanOverPadding(Reader):
    def forward(self, tokens):
        return self.out(self.lstm(self.table(tokens))[0].mean(1))


@fault("padding", inputs="tokens")
class LastStep(Reader):
    def forward(self, tokens):
        return self.out(self.lstm(self.table(tokens))[0][:, -1])


@fault("padding", inputs="tokens")
class AttendsToPadding(nn.Module):
    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(30, 16, padding_idx=0)
        self.encoder = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
        self.out = nn.Linear(16, CLASSES)

    def forward(self, tokens):
        return self.out(self.encoder(self.table(tokens))[:, 0])


@fault("attention_mask", "layer.self_attn", inputs="tokens")
class MaskOfEncoderInverted(MaskedMean):
    def __init__(self):
        super().__init__(nn.TransformerEncoderLayer(16, 2, 32, 0.0, batch_first=True))

    def mixed(self, x, tokens):
        return self.layer(x, src_key_padding_mask=tokens.ne(0))


@fault("attention_mask", "layer", inputs="tokens", alone=False)
class MaskOfAttentionInverted(MaskedMean):
    def __init__(self):
        super().__init__(nn.MultiheadAttention(16, 2))

    def mixed(self, x, tokens):
        t = x.transpose(0, 1)
        return x + self.layer(t, t, t, key_padding_mask=tokens != 0)[0].transpose(0, 1)


@fault("attention_mask", "layer", inputs="tokens")
class MaskOfProductInverted(MaskedMean):
    def __init__(self):
        super().__init__(ProductAttention(16, 48))

    def mixed(self, x, tokens):
        return x + self.layer(x, (tokens == 0)[:, None, None])


class ProductAttention(nn.Linear):
    def forward(self, x, mask):
        n, length, _ = x.shape
        q, k, v = super().forward(x).view(n, length, 3, 2, 8).permute(2, 0, 3, 1, 4)
        return F.scaled_dot_product_attention(q, k, v, mask).transpose(1, 2).flatten(2)


@fault("attention_mask", "layer", inputs="tokens")
class FloatMaskInverted(MaskOfProductInverted):
    def mixed(self, x, tokens):
        mask = (tokens != 0)[:, None, None].to(x.dtype) * -1e9
        return x + self.layer(x, mask)


@fault("padding", inputs="tokens")
class MaximumOverPadding(MaskedMean):
    def forward(self, tokens):
        return self.out((self.table(tokens) + 0.5).relu().amax(1))


@fault("padding", inputs="tokens")
class ConvolvesPadding(MaskedMean):
    def __init__(self):
        super().__init__(nn.Conv1d(16, 16, 3, padding=1))
        nn.init.constant_(self.layer.bias, 0.5)

    def forward(self, tokens):
        return self.out(self.layer(self.table(tokens).transpose(1, 2)).relu().amax(2))


@fault("padding", inputs="tokens")
class OneTooFar(Reader):
    def forward(self, tokens):
        states, _ = self.lstm(self.table(tokens))
        behind = (tokens != 0).sum(1).clamp(max=tokens.shape[1] - 1)
        return self.out(states[torch.arange(len(tokens), device=tokens.device), behind])


@fault("overfit", level="full")
class CannotLearn(MLP):
    def forward(self, x):
        return super().forward(1e-4 * x)


def refuse(network):
    raise RuntimeError("Could not guard on data-dependent expression Eq(u0, 1) in self.middle, a layer of 2")


def trace(network):
    """As the exporter does: it calls forward, and tells its failure with advice that is no help."""
    try:
        network(torch.zeros(2, 9, dtype=torch.int64))
    except RuntimeError as error:
        raise ValueError("step 1 of 3 failed") from error


def refuse_to_pack(network):
    raise TypeError("zeros(): argument 'size' failed to unpack the object at pos 2")


@fault("export", level="full", inputs="tokens", more={"export": refuse_to_pack})
class PacksSequences(Reader):
    def forward(self, tokens):
        lengths = (tokens != 0).sum(1).cpu()
        packed = pack_padded_sequence(self.table(tokens), lengths, batch_first=True, enforce_sorted=False)
        return self.out(self.lstm(packed)[1][0][-1])


class Guarded(nn.LSTM):
    def forward(self, x):
        if len(x) == 2 and not x.requires_grad:
            raise RuntimeError("a table of Eq(u0, 1)\n\nFor more information, run with TORCH_LOGS")
        return super().forward(x)


@fault("export", "lstm", level="full", inputs="tokens", more={"export": torch.no_grad()(trace)})
class FailsToExport(Reader):
    def __init__(self):
        super().__init__()
        self.lstm = Guarded(12, 16, batch_first=True)


@fault("export", "middle", level="full", more={"export": refuse})
def not_exportable():
    return MLP()
