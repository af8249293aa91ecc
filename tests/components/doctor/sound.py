"""Sound networks of the field, some of which look like faults."""

import collections
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.fx
import torch.utils.checkpoint
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations, parametrize
from torch.nn.utils.rnn import pack_padded_sequence

from tests.components.doctor.cases import CLASSES
from tests.components.doctor.faulty import CNN, MLP, Holder, MaskedMean, ProductAttention, Reader


@dataclass
class Sound:
    name: str
    make: Callable[[], nn.Module]
    inputs: str = "features"
    loss: str = "cross_entropy"
    warns: set[str] = field(default_factory=set)
    """Checks that may warn."""
    more: dict[str, Any] = field(default_factory=dict)


SOUND: list[Sound] = []


def sound(**more: Any):
    def add(make):
        SOUND.append(Sound(make.__name__.lower(), make, **more))
        return make

    return add


sound()(MLP)
sound(inputs="images")(CNN)
sound(inputs="tokens")(Reader)


@sound(loss="bce")
def multilabel():
    return MLP()


@sound(loss="mse")
def regression():
    return MLP()


@sound(loss="huber")
def regression_by_huber():
    return MLP()


@sound()
def logistic_regression():
    return nn.Linear(12, CLASSES)


@sound(inputs="images")
def sequential():
    return nn.Sequential(
        nn.Conv2d(3, 8, 3),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Dropout(0.5),
        nn.Linear(392, CLASSES),
    )


@sound()
def lazy():
    network = nn.Sequential(nn.LazyLinear(16), nn.ReLU(), nn.LazyLinear(CLASSES))
    network(torch.zeros(2, 12))
    return network


@sound(inputs="images")
def instance_norm():
    return CNN(lambda n: nn.InstanceNorm2d(n, affine=True))


@sound(inputs="images")
def group_norm():
    return CNN(lambda n: nn.GroupNorm(2, n))


@sound(inputs="images")
def instance_norm_with_running_statistics():
    return CNN(lambda n: nn.InstanceNorm2d(n, track_running_stats=True))


@sound()
def batch_norm_of_features():
    return nn.Sequential(
        nn.Linear(12, 32, bias=False), nn.BatchNorm1d(32), nn.ReLU(), nn.Dropout(), nn.Linear(32, CLASSES)
    )


class Packed(nn.Module):
    def __init__(self, kind, bidirectional=True):
        super().__init__()
        self.table = nn.Embedding(30, 12, padding_idx=0)
        self.recurrent = kind(12, 10, 2, batch_first=True, dropout=0.2, bidirectional=bidirectional)
        self.out = nn.Linear(20, CLASSES)

    def forward(self, tokens):
        lengths = (tokens != 0).sum(1).cpu()
        packed = pack_padded_sequence(self.table(tokens), lengths, batch_first=True, enforce_sorted=False)
        state = self.recurrent(packed)[1]
        state = state[0] if isinstance(state, tuple) else state
        return self.out(torch.cat([state[-2], state[-1]], 1))


@sound(inputs="tokens")
def lstm():
    return Packed(nn.LSTM)


@sound(inputs="tokens")
def gru():
    return Packed(nn.GRU)


@sound(inputs="tokens")
def rnn():
    return Packed(nn.RNN)


class Encoder(nn.Module):
    def __init__(self, batch_first=True, norm_first=False):
        super().__init__()
        self.batch_first = batch_first
        self.table = nn.Embedding(30, 16, padding_idx=0)
        self.positions = nn.Embedding(40, 16)
        layer = nn.TransformerEncoderLayer(16, 2, 32, 0.1, batch_first=batch_first, norm_first=norm_first)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.out = nn.Linear(16, CLASSES)

    def forward(self, tokens):
        mask = tokens == 0
        x = self.table(tokens) + self.positions(torch.arange(tokens.shape[1], device=tokens.device))
        x = x if self.batch_first else x.transpose(0, 1)
        x = self.encoder(x, src_key_padding_mask=mask)
        x = x if self.batch_first else x.transpose(0, 1)
        kept = (~mask).unsqueeze(2)
        return self.out((x * kept).sum(1) / kept.sum(1))


@sound(inputs="tokens")
def transformer():
    return Encoder()


@sound(inputs="tokens")
def transformer_of_sequence_first():
    return Encoder(batch_first=False, norm_first=True)


@sound(inputs="tokens")
class NestedTensors(Encoder):
    """As torch has it by default: in evaluation mode layers are given nested tensors, without padding."""

    def __init__(self):
        super().__init__()
        layer = nn.TransformerEncoderLayer(16, 2, 32, 0.1, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2)


@sound(inputs="tokens")
class LearnedPositionsOfFixedLength(Encoder):
    def __init__(self):
        super().__init__()
        self.positions = nn.Embedding(9, 16)


@sound(inputs="tokens")
class Sinusoids(Encoder):
    def __init__(self):
        super().__init__()
        del self.positions
        self.register_buffer("waves", torch.sin(torch.arange(40.0)[:, None] * torch.arange(16)), persistent=False)

    def positions(self, index):
        return self.waves[: len(index)]


@sound(inputs="tokens")
class MaskedTextCNN(nn.Module):
    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(30, 12, padding_idx=0)
        self.convs = nn.ModuleList([nn.Conv1d(12, 8, width, padding=width - 1) for width in (2, 3)])
        self.out = nn.Linear(16, CLASSES)

    def forward(self, tokens):
        x, length = self.table(tokens).transpose(1, 2), (tokens != 0).sum(1)
        found = []
        for conv in self.convs:
            y = conv(x)
            there = torch.arange(y.shape[2], device=y.device) < length[:, None] + conv.kernel_size[0] - 1
            found.append(y.masked_fill(~there[:, None], -torch.inf).amax(2))
        return self.out(torch.relu(torch.cat(found, 1)))


@sound(inputs="tokens")
class MaskedAttention(MaskedMean):
    def __init__(self):
        super().__init__(ProductAttention(16, 48))

    def mixed(self, x, tokens):
        return x + self.layer(x, (tokens != 0)[:, None, None])


@sound(inputs="tokens")
class CausalAttention(MaskedMean):
    """Which masks the future alone, and reads the last real token."""

    def __init__(self):
        super().__init__(ProductAttention(16, 48))

    def forward(self, tokens):
        length = tokens.shape[1]
        past = torch.ones(length, length, dtype=torch.bool, device=tokens.device).tril()
        x = self.table(tokens)
        x = x + self.layer(x, past.expand(len(tokens), 1, -1, -1))
        return self.out(x[torch.arange(len(tokens), device=tokens.device), (tokens != 0).sum(1) - 1])


@sound(inputs="tokens")
def bag_of_words():
    class Bag(nn.Module):
        def __init__(self):
            super().__init__()
            self.bag = nn.EmbeddingBag(30, 16, padding_idx=0, sparse=True)
            self.out = nn.Linear(16, CLASSES)

        def forward(self, tokens):
            return self.out(self.bag(tokens))

    return Bag()


@sound(inputs="tokens", warns={"shared"})
class TiedWeights(Reader):
    def __init__(self):
        super().__init__()
        self.decode = nn.Linear(12, 30, bias=False)
        self.decode.weight = self.table.weight
        self.out = nn.Linear(16 + 30, CLASSES)

    def forward(self, tokens):
        states, _ = self.lstm(self.table(tokens))
        last = states[torch.arange(len(tokens), device=tokens.device), (tokens != 0).sum(1) - 1]
        return self.out(torch.cat([last, self.decode(torch.tanh(last[:, :12]))], 1))


@sound(inputs="images")
class FrozenBackbone(CNN):
    def __init__(self):
        super().__init__()
        for layer in (self.conv1, self.norm1, self.conv2):
            layer.requires_grad_(False)

    def train(self, mode=True):
        super().train(mode)
        self.norm1.eval()
        return self


@sound(inputs="images")
class FrozenByNoGrad(CNN):
    def __init__(self):
        super().__init__()
        for layer in (self.conv1, self.norm1, self.conv2):
            layer.requires_grad_(False)

    def forward(self, x):
        with torch.no_grad():
            x = self.features(x)
        return self.out(x.mean((2, 3)))


class Cube(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x**3

    @staticmethod
    def backward(ctx, gradient):  # ty: ignore[invalid-method-override]
        (x,) = ctx.saved_tensors
        return 3 * gradient * x**2


class OwnRelu(torch.autograd.Function):
    @staticmethod
    def forward(x, slope):
        return x.clamp(min=0) + slope * x.clamp(max=0)

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.slope = inputs[1]
        ctx.save_for_backward(inputs[0])

    @staticmethod
    def backward(ctx, gradient):  # ty: ignore[invalid-method-override]
        (x,) = ctx.saved_tensors
        return torch.where(x > 0, gradient, ctx.slope * gradient), None


@sound()
class OwnFunctions(MLP):
    def forward(self, x):
        return self.out(torch.relu(self.middle(Cube.apply(OwnRelu.apply(self.first(x), 0.1)))))


@sound()
class OwnDropout(MLP):
    def forward(self, x):
        x = self.hidden(x)
        return self.out(x * (torch.rand_like(x) > 0.4) / 0.6 if self.training else x)


@sound()
class HooksThatScale(MLP):
    """By a constant, and by a mask that keeps some rows as they are."""

    def __init__(self):
        super().__init__()
        self.first.weight.register_hook(lambda gradient: gradient * 0.1)
        self.middle.weight.register_hook(lambda gradient: gradient * (torch.arange(24) > 4)[:, None])
        self.out.register_full_backward_hook(lambda _, inputs, __: tuple(one.clamp(-1, 1) for one in inputs))


@sound()
def deep_relu():
    """Without normalisation: to its last layers, all samples look alike."""
    layers = [layer for _ in range(12) for layer in (nn.Linear(32, 32), nn.ReLU())]
    return nn.Sequential(nn.Linear(12, 32), nn.ReLU(), *layers, nn.Linear(32, CLASSES))


@sound(inputs="images")
class DrawsFewOfMany(CNN):
    """A maximum over groups of channels."""

    def features(self, x):
        return super().features(x).unflatten(1, (4, 4)).amax(2).repeat(1, 4, 1, 1)


@sound()
class RemembersALittle(MLP):
    def __init__(self):
        super().__init__()
        self.recent = collections.deque([0.0], maxlen=3)

    def forward(self, x):
        self.recent.append(x.detach().mean().item())
        return super().forward(x)


@sound()
class GuardsItsLogits(MLP):
    def forward(self, x):
        return super().forward(x).clamp(-30, 30)


class OwnBatchNorm(nn.Module):
    """With running statistics, right and by hand."""

    def __init__(self, width):
        super().__init__()
        self.scale, self.shift = nn.Parameter(torch.ones(width)), nn.Parameter(torch.zeros(width))
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("variance", torch.ones(width))

    def forward(self, x):
        mean, variance = self.mean, self.variance
        if self.training:
            mean, variance = x.mean(0), x.var(0, unbiased=False)
            with torch.no_grad():
                self.mean.lerp_(mean, 0.1)
                self.variance.lerp_(variance, 0.1)
        return (x - mean) * torch.rsqrt(variance + 1e-5) * self.scale + self.shift


@sound()
class NormalisesByHand(MLP):
    def __init__(self):
        super().__init__()
        self.first = nn.Sequential(nn.Linear(12, 24, bias=False), OwnBatchNorm(24))


@sound(loss="mse")
class LargeFirstOutputs(MLP):
    """As xavier has them behind a ReLU: with a variance of about 2."""

    def __init__(self):
        super().__init__()
        for layer in (self.first, self.middle):
            nn.init.kaiming_normal_(layer.weight)
        nn.init.normal_(self.out.weight, std=0.3)


@sound()
class DropoutOnly(MLP):
    def __init__(self):
        super().__init__()
        self.drop = nn.Dropout(0.5)

    def forward(self, x):
        return self.out(self.drop(self.hidden(self.drop(x))))


@sound()
class FunctionalDropout(MLP):
    def forward(self, x):
        return self.out(F.dropout(self.hidden(x), 0.3, self.training))


@sound()
class Defaults(MLP):
    def forward(self, x, scale: float = 1.0, *, mask: Tensor | None = None):
        hidden = self.hidden(x) * scale
        return self.out(hidden if mask is None else hidden * mask)


@sound(inputs="images")
class ZeroInitResidual(CNN):
    def __init__(self):
        super().__init__()
        self.branch = nn.Sequential(
            nn.Conv2d(16, 16, 3, padding=1, bias=False),
            nn.BatchNorm2d(16),
            nn.ReLU(),
            nn.Conv2d(16, 16, 1, bias=False),
            nn.BatchNorm2d(16),
        )
        nn.init.zeros_(self.branch[4].weight)

    def forward(self, x):
        x = self.features(x)
        return self.out((x + self.branch(x)).mean((2, 3)))


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


@sound(inputs="images")
class ZeroTokenAndZeroHead(nn.Module):
    """The token gets its gradient as soon as the head has moved."""

    def __init__(self):
        super().__init__()
        self.patches = nn.Conv2d(3, 16, 4, 4)
        self.token, self.positions = nn.Parameter(torch.zeros(1, 1, 16)), nn.Parameter(torch.zeros(1, 17, 16))
        self.block = nn.TransformerEncoderLayer(16, 2, 32, 0.0, batch_first=True, norm_first=True)
        self.out = nn.Linear(16, CLASSES)
        nn.init.zeros_(self.out.weight)

    def forward(self, x):
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(len(x), -1, -1), x], 1) + self.positions
        return self.out(self.block(x)[:, 0])


@sound(inputs="images")
class ScalesOfOnes(CNN):
    """Element by element, and a mean over places that is learned on."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(16, 8, 8))
        self.norm2 = nn.LayerNorm((16, 8, 8))
        self.average = nn.Parameter(torch.full((64, 64), 1 / 64))

    def forward(self, x):
        x = self.norm2(self.features(x) * self.scale)
        mixed = (x.flatten(2) @ self.average.t()).view_as(x)
        return self.out((x + mixed).amax((2, 3)))


@sound(warns={"plain_tensor"})
class CachesWhatIsConstant(MLP):
    def __init__(self):
        super().__init__()
        self.cache = {}

    def forward(self, x):
        ramp = self.cache.setdefault(x.shape[1], torch.linspace(0.5, 1.5, x.shape[1], device=x.device))
        return super().forward(x * ramp.to(x))


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


@sound(inputs="images")
class Separable(CNN):
    def __init__(self):
        super().__init__()
        self.conv2 = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1, groups=8), nn.Conv2d(8, 16, 1))


@sound(inputs="images")
class Auxiliary(CNN):
    def __init__(self):
        super().__init__()
        self.aux = nn.Linear(8, CLASSES)

    def forward(self, x):
        early = torch.relu(self.norm1(self.conv1(x)))
        main = self.out(torch.relu(self.conv2(early)).mean((2, 3)))
        return (main, self.aux(early.mean((2, 3)))) if self.training else main


@sound(inputs="images")
class StochasticDepth(CNN):
    def __init__(self):
        super().__init__()
        self.extra = nn.Conv2d(16, 16, 3, padding=1)

    def forward(self, x):
        x = self.features(x)
        if not self.training or torch.rand(()) < 0.5:
            x = x + torch.relu(self.extra(x))
        return self.out(x.mean((2, 3)))


@sound()
class NoiseInTraining(MLP):
    def forward(self, x):
        return super().forward(x + 0.1 * torch.randn_like(x) if self.training else x)


@sound(inputs="images")
class ClassToken(nn.Module):
    """A small vision transformer."""

    def __init__(self):
        super().__init__()
        self.patches = nn.Conv2d(3, 16, 4, 4)
        self.token = nn.Parameter(torch.zeros(1, 1, 16))
        self.positions = nn.Parameter(torch.randn(1, 17, 16) * 0.02)
        self.block = nn.TransformerEncoderLayer(16, 2, 32, activation="gelu", batch_first=True, norm_first=True)
        self.norm = nn.LayerNorm(16)
        self.head = nn.Linear(16, CLASSES)

    def forward(self, x):
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(len(x), -1, -1), x], 1) + self.positions
        return self.head(self.norm(self.block(x))[:, 0])


@sound(inputs="images")
class MixerOverChannels(CNN):
    """Softmax and means over all but the batch; windows folded into it and back."""

    def forward(self, x):
        x = self.features(x)
        n, c, h, w = x.shape
        windows = x.view(n, c, 2, h // 2, 2, w // 2).permute(0, 2, 4, 1, 3, 5).reshape(n * 4, c, -1)
        windows = windows * windows.softmax(2)
        return self.out(windows.view(n, 4, c, -1).mean((1, 3)))


@sound()
class Gated(MLP):
    def forward(self, x):
        x = self.first(x)
        return self.out(F.silu(x) * torch.sigmoid(self.middle(x)))


@sound()
class Hadamard(MLP):
    """Whose first layer is used twice, once behind a product."""

    def forward(self, x):
        return self.out(torch.relu(self.first(x) * torch.tanh(self.first(x)) + torch.sin(self.middle(self.first(x)))))


@sound(inputs="images")
class TwoViews(CNN):
    """One path, batch normalisation included, for a picture and its mirror image."""

    def forward(self, x):
        return self.out(self.features(x).mean((2, 3)) + self.features(x.flip(3)).amax((2, 3)))


@sound()
class LooksAtItselfOnTheCpu(MLP):
    """Which takes numbers away for others to see, and goes on with what it had."""

    def forward(self, x):
        x = self.hidden(x)
        self.seen = float(x.detach().cpu().numpy().mean())
        x.cpu().sum().item()
        return self.out(x)


@sound()
class GatedTwice(MLP):
    def forward(self, x):
        x = torch.tanh(self.first(x))
        return self.out(torch.sigmoid(x) * x + torch.tanh(self.middle(x)))


@sound()
class Experts(MLP):
    def __init__(self):
        super().__init__()
        self.experts = nn.ModuleList(nn.Linear(24, 24) for _ in range(3))
        self.router = nn.Linear(24, 3)

    def forward(self, x):
        x = torch.relu(self.first(x))
        x = torch.relu(self.middle(x))
        shares = self.router(x).softmax(1)
        return self.out(torch.stack([torch.relu(e(x)) for e in self.experts], 2).mul(shares[:, None]).sum(2))


@sound()
class NotCopyable(MLP):
    """Which copy.deepcopy refuses."""

    def __init__(self):
        super().__init__()
        self.lock = threading.Lock()
        self.parent_of = [self.first]

    def forward(self, x):
        with self.lock:
            return super().forward(x)


@sound(warns={"registered"})
class KeepsAnAverage(MLP):
    """Of its weights, in an object that is no module; forward does not use it."""

    def __init__(self):
        super().__init__()
        self.average = Holder(nn.Linear(12, 24))


@sound(warns={"registered"})
class FrozenTeacher(MLP):
    def __init__(self):
        super().__init__()
        self.teacher = [MLP().requires_grad_(False)]


@sound(inputs="images")
class Fourier(CNN):
    def forward(self, x):
        spectrum = torch.fft.rfft2(self.features(x))
        return self.out(spectrum.abs().mean((2, 3)))


@sound()
class CosineHead(MLP):
    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(5.0))

    def forward(self, x):
        return self.scale * F.linear(F.normalize(self.hidden(x)), F.normalize(self.out.weight), self.out.bias)


@sound(inputs="images")
class RecurrentOverRows(nn.Module):
    def __init__(self):
        super().__init__()
        self.gru = nn.GRU(48, 16)
        self.out = nn.Linear(16, CLASSES)

    def forward(self, x):
        rows = x.permute(2, 0, 1, 3).flatten(2)  # (H, N, C * W): the time first
        return self.out(self.gru(rows)[0][-1])


@sound()
def checkpointed():
    class Checkpointed(MLP):
        def forward(self, x):
            x = torch.utils.checkpoint.checkpoint(self.first, x, use_reentrant=True)
            return self.out(
                torch.utils.checkpoint.checkpoint(lambda x: self.middle(x.relu()).relu(), x, use_reentrant=False)
            )

    return Checkpointed()


@sound()
def traced_by_fx():
    return torch.fx.symbolic_trace(MLP())


@sound()
class Mapped(MLP):
    """By torch.func.vmap over the samples."""

    def forward(self, x):
        return torch.func.vmap(super().forward)(x)


@sound()
class ComplexWeights(MLP):
    def __init__(self):
        super().__init__()
        self.spectrum = nn.Parameter(torch.randn(13, 13, dtype=torch.complex64) / 4)

    def forward(self, x):
        x = torch.fft.irfft(torch.fft.rfft(torch.relu(self.first(x))) @ self.spectrum.to(torch.complex64), n=24)
        return self.out(torch.relu(self.middle(x)))


@sound()
def of_two_classes():
    return MLP(2)


SOUND[-1].more = {"num_outputs": 2}
