"""Sound networks for images; some look faulty."""

import torch
import torch.fx
import torch.utils.checkpoint
from torch import nn

from tests.components.doctor.base_networks import CNN
from tests.components.doctor.check_inputs import CLASSES
from tests.components.doctor.registry import sound

sound(inputs="images")(CNN)


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


@sound(inputs="images")
def instance_norm():
    return CNN(lambda n: nn.InstanceNorm2d(n, affine=True))


@sound(inputs="images")
def group_norm():
    return CNN(lambda n: nn.GroupNorm(2, n))


@sound(inputs="images")
def instance_norm_with_running_statistics():
    return CNN(lambda n: nn.InstanceNorm2d(n, track_running_stats=True))


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


@sound(inputs="images")
class MaximumOverChannels(CNN):
    """Maximum over groups of channels: most units get no gradient from a sample."""

    def features(self, x):
        return super().features(x).unflatten(1, (4, 4)).amax(2).repeat(1, 4, 1, 1)


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


@sound(inputs="images")
class ZeroTokenAndZeroHead(nn.Module):
    """The token gets a gradient as soon as the head is no longer zero."""

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
    """Elementwise scales, and a trainable matrix that starts as a mean over places."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(16, 8, 8))
        self.norm2 = nn.LayerNorm((16, 8, 8))
        self.average = nn.Parameter(torch.full((64, 64), 1 / 64))

    def forward(self, x):
        x = self.norm2(self.features(x) * self.scale)
        mixed = (x.flatten(2) @ self.average.t()).view_as(x)
        return self.out((x + mixed).amax((2, 3)))


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


@sound(inputs="images")
class ClassToken(nn.Module):
    """Small vision transformer."""

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
    """Softmax and means over all dimensions but the batch, and windows folded into the batch and back."""

    def forward(self, x):
        x = self.features(x)
        n, c, h, w = x.shape
        windows = x.view(n, c, 2, h // 2, 2, w // 2).permute(0, 2, 4, 1, 3, 5).reshape(n * 4, c, -1)
        windows = windows * windows.softmax(2)
        return self.out(windows.view(n, 4, c, -1).mean((1, 3)))


@sound(inputs="images")
class TwoViews(CNN):
    """The same path, with its batch normalization, for an image and its mirror image."""

    def forward(self, x):
        return self.out(self.features(x).mean((2, 3)) + self.features(x.flip(3)).amax((2, 3)))


@sound(inputs="images")
class Fourier(CNN):
    def forward(self, x):
        spectrum = torch.fft.rfft2(self.features(x))
        return self.out(spectrum.abs().mean((2, 3)))


@sound(inputs="images")
class RecurrentOverRows(nn.Module):
    def __init__(self):
        super().__init__()
        self.gru = nn.GRU(48, 16)
        self.out = nn.Linear(16, CLASSES)

    def forward(self, x):
        rows = x.permute(2, 0, 1, 3).flatten(2)  # (H, N, C * W), time first
        return self.out(self.gru(rows)[0][-1])
