"""Networks with unregistered, shared or plain tensors, or with layers made in forward."""

import torch
import torch.fx
import torch.utils.checkpoint
from torch import nn

from tests.components.doctor.base_networks import CNN, MLP, Holder
from tests.components.doctor.registry import fault


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
class ParametersOfTheHeadOnly(MLP):
    def parameters(self, recurse=True):
        return self.out.parameters(recurse)


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


@fault("shared_norm", "norm1", "warn", inputs="images")
class NormInTwoPlaces(CNN):
    def __init__(self):
        super().__init__()
        self.extra = nn.Conv2d(8, 8, 3, padding=1, bias=False)

    def features(self, x):
        x = torch.relu(self.norm1(self.conv1(x)))
        return torch.relu(self.conv2(torch.relu(self.norm1(self.extra(x)))))


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
class GrowingLog(MLP):
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


@fault("made_in_forward")
class NoLongerAParameter(MLP):
    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.randn(24)) * 0.02

    def forward(self, x):
        return self.out(self.hidden(x) * (1 + self.scale))


@fault("made_in_forward")
class NormInForward(MLP):
    def forward(self, x):
        return self.out(nn.BatchNorm1d(24)(self.hidden(x)))
