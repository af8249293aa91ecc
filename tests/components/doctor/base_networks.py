"""Small sound networks, and parts of networks, for the test networks to vary."""

import torch
import torch.fx
import torch.utils.checkpoint
from torch import Tensor, nn
from torch.nn import functional as F

from tests.components.doctor.check_inputs import CLASSES


class MLP(nn.Module):
    """Sound network; the faulty ones replace parts of it."""

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
    """Recurrent classifier of the state at the last real token."""

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
    """Mean of a layer's outputs over the real tokens."""

    def __init__(self, layer=None):
        super().__init__()
        self.table = nn.Embedding(30, 16, padding_idx=0)
        self.layer = layer or nn.Identity()
        self.out = nn.Linear(16, CLASSES)

    def mixed(self, x, tokens):
        return self.layer(x)

    def forward(self, tokens):
        real = (tokens != 0).unsqueeze(2)
        return self.out((self.mixed(self.table(tokens), tokens) * real).sum(1) / real.sum(1))


class Holder:
    """Plain object, which torch does not search for layers."""

    def __init__(self, *layers):
        self.layers = layers
        self.itself = self

    def __call__(self, x):
        for layer in self.layers:
            x = torch.relu(layer(x))
        return x


class ProductAttention(nn.Linear):
    def forward(self, x, mask):
        n, length, _ = x.shape
        q, k, v = super().forward(x).view(n, length, 3, 2, 8).permute(2, 0, 3, 1, 4)
        return F.scaled_dot_product_attention(q, k, v, mask).transpose(1, 2).flatten(2)
