"""Sound networks for features; some look faulty."""

import collections
import threading

import torch
import torch.fx
import torch.utils.checkpoint
from torch import Tensor, nn
from torch.nn import functional as F

from tests.components.doctor.base_networks import MLP
from tests.components.doctor.check_inputs import CLASSES
from tests.components.doctor.registry import sound

sound()(MLP)


@sound(loss="bce")
def multilabel():
    return MLP()


@sound(loss="mse")
def regression():
    return MLP()


@sound(loss="huber")
def huber_regression():
    return MLP()


@sound()
def logistic_regression():
    return nn.Linear(12, CLASSES)


@sound()
def lazy():
    network = nn.Sequential(nn.LazyLinear(16), nn.ReLU(), nn.LazyLinear(CLASSES))
    network(torch.zeros(2, 12))
    return network


@sound()
def batch_norm_of_features():
    return nn.Sequential(
        nn.Linear(12, 32, bias=False), nn.BatchNorm1d(32), nn.ReLU(), nn.Dropout(), nn.Linear(32, CLASSES)
    )


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
    """Scale by a constant, by a mask of rows, and by a clamp."""

    def __init__(self):
        super().__init__()
        self.first.weight.register_hook(lambda gradient: gradient * 0.1)
        self.middle.weight.register_hook(lambda gradient: gradient * (torch.arange(24) > 4)[:, None])
        self.out.register_full_backward_hook(lambda _, inputs, __: tuple(gradient.clamp(-1, 1) for gradient in inputs))


@sound()
def deep_relu():
    """All samples look alike to the last layers, for lack of normalization."""
    layers = [layer for _ in range(12) for layer in (nn.Linear(32, 32), nn.ReLU())]
    return nn.Sequential(nn.Linear(12, 32), nn.ReLU(), *layers, nn.Linear(32, CLASSES))


@sound()
class ShortMemory(MLP):
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
    """Correct batch normalization by hand, with running statistics."""

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
class NormalizesByHand(MLP):
    def __init__(self):
        super().__init__()
        self.first = nn.Sequential(nn.Linear(12, 24, bias=False), OwnBatchNorm(24))


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


@sound(warns={"plain_tensor"})
class CachesConstants(MLP):
    def __init__(self):
        super().__init__()
        self.cache = {}

    def forward(self, x):
        ramp = self.cache.setdefault(x.shape[1], torch.linspace(0.5, 1.5, x.shape[1], device=x.device))
        return super().forward(x * ramp.to(x))


@sound()
class NoiseInTraining(MLP):
    def forward(self, x):
        return super().forward(x + 0.1 * torch.randn_like(x) if self.training else x)


@sound()
class Gated(MLP):
    def forward(self, x):
        x = self.first(x)
        return self.out(F.silu(x) * torch.sigmoid(self.middle(x)))


@sound()
class Hadamard(MLP):
    """The first layer is used three times, once behind a product."""

    def forward(self, x):
        return self.out(torch.relu(self.first(x) * torch.tanh(self.first(x)) + torch.sin(self.middle(self.first(x)))))


@sound()
class LogsOnTheCpu(MLP):
    """Copies values to the CPU for a log, and continues with the original tensor."""

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
    """copy.deepcopy refuses the lock."""

    def __init__(self):
        super().__init__()
        self.lock = threading.Lock()
        self.parent_of = [self.first]

    def forward(self, x):
        with self.lock:
            return super().forward(x)


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
    """torch.func.vmap over the samples."""

    def forward(self, x):
        return torch.func.vmap(super().forward)(x)


@sound(more={"num_outputs": 2})
def two_classes():
    return MLP(2)
