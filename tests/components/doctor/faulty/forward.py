"""Networks with faulty outputs: wrong shapes, infinite values, a bad first loss."""

import torch
import torch.fx
import torch.utils.checkpoint
from torch import nn
from torch.nn import functional as F

from tests.components.doctor.base_networks import CNN, MLP, Reader
from tests.components.doctor.check_inputs import CLASSES
from tests.components.doctor.registry import fault


@fault("forward", "out")
class WrongWidth(MLP):
    def __init__(self):
        super().__init__()
        self.out = nn.Linear(20, CLASSES)


@fault("forward", "out")
def too_many_outputs():
    return MLP(CLASSES + 2)


@fault("forward", "pool", inputs="images")
class PooledAway(CNN):
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
class RareLabelBias(MLP):
    def __init__(self):
        super().__init__()
        nn.init.constant_(self.out.bias, -5.0)


@fault("constant_output", alone=False)
class IgnoresInput(MLP):
    def forward(self, x):
        return super().forward(torch.ones_like(x)) + x.sum() * 0


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
