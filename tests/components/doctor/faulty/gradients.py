"""Networks whose gradients are cut, zero, reversed, too small or not finite, or that cannot learn."""

import torch
import torch.fx
import torch.utils.checkpoint
from torch import nn

from tests.components.doctor.base_networks import CNN, MLP
from tests.components.doctor.registry import fault


@fault("reached", "unused")
class UnusedLayer(MLP):
    def __init__(self):
        super().__init__()
        self.unused = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))


@fault("reached", "extra")
class DropsResult(MLP):
    def __init__(self):
        super().__init__()
        self.extra = nn.Linear(24, 24)

    def forward(self, x):
        x = self.hidden(x)
        self.extra(x).relu()
        return self.out(x)


@fault("reached", "first")
class Detached(MLP):
    def forward(self, x):
        return self.out(torch.relu(self.middle(torch.relu(self.first(x)).detach())))


@fault("reached", "first")
class UsesData(MLP):
    def forward(self, x):
        return self.out(torch.relu(self.middle(self.first(x).relu().data)))


@fault("reached", "first")
class UnderNoGrad(MLP):
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
class MultipliesByZero(MLP):
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
class HalfUnused(MLP):
    def __init__(self):
        super().__init__()
        self.first = nn.Linear(12, 48)

    def hidden(self, x):
        return torch.relu(self.middle(torch.relu(self.first(x))[:, :24]))


@fault("units", "conv2", "warn", inputs="images")
class HalfOfChannelsUnused(CNN):
    def __init__(self):
        super().__init__()
        self.conv2 = nn.Conv2d(8, 32, 3, padding=1)

    def features(self, x):
        return super().features(x).chunk(2, 1)[1]


@fault("hooks", "middle", "warn")
class HookReversesGradient(MLP):
    def __init__(self):
        super().__init__()
        self.middle.weight.register_hook(lambda gradient: -gradient)


@fault("hooks", "first", "warn")
class LayerHookReversesGradient(MLP):
    def __init__(self):
        super().__init__()
        self.middle.register_full_backward_hook(lambda _, inputs, __: tuple(-2 * gradient for gradient in inputs))


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


@fault("overfit", level="full")
class CannotLearn(MLP):
    def forward(self, x):
        return super().forward(1e-4 * x)
