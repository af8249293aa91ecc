"""Networks whose outputs depend on padding."""

import torch
import torch.fx
import torch.utils.checkpoint
from torch import nn

from tests.components.doctor.base_networks import MaskedMean, ProductAttention, Reader
from tests.components.doctor.check_inputs import CLASSES
from tests.components.doctor.registry import fault


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
class InvertedEncoderMask(MaskedMean):
    def __init__(self):
        super().__init__(nn.TransformerEncoderLayer(16, 2, 32, 0.0, batch_first=True))

    def mixed(self, x, tokens):
        return self.layer(x, src_key_padding_mask=tokens.ne(0))


@fault("attention_mask", "layer", inputs="tokens", alone=False)
class InvertedKeyPaddingMask(MaskedMean):
    def __init__(self):
        super().__init__(nn.MultiheadAttention(16, 2))

    def mixed(self, x, tokens):
        t = x.transpose(0, 1)
        return x + self.layer(t, t, t, key_padding_mask=tokens != 0)[0].transpose(0, 1)


@fault("attention_mask", "layer", inputs="tokens")
class InvertedBooleanMask(MaskedMean):
    def __init__(self):
        super().__init__(ProductAttention(16, 48))

    def mixed(self, x, tokens):
        return x + self.layer(x, (tokens == 0)[:, None, None])


@fault("attention_mask", "layer", inputs="tokens")
class InvertedFloatMask(InvertedBooleanMask):
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
class ReadsOneTooFar(Reader):
    def forward(self, tokens):
        states, _ = self.lstm(self.table(tokens))
        behind = (tokens != 0).sum(1).clamp(max=tokens.shape[1] - 1)
        return self.out(states[torch.arange(len(tokens), device=tokens.device), behind])
