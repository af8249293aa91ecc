"""Sound networks for tokens; some look faulty."""

import torch
import torch.fx
import torch.utils.checkpoint
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence

from tests.components.doctor.base_networks import MaskedMean, ProductAttention, Reader
from tests.components.doctor.check_inputs import CLASSES
from tests.components.doctor.registry import sound

sound(inputs="tokens")(Reader)


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
        real = (~mask).unsqueeze(2)
        return self.out((x * real).sum(1) / real.sum(1))


@sound(inputs="tokens")
def transformer():
    return Encoder()


@sound(inputs="tokens")
def sequence_first_transformer():
    return Encoder(batch_first=False, norm_first=True)


@sound(inputs="tokens")
class NestedTensors(Encoder):
    """torch's default: in evaluation mode, layers get nested tensors without padding."""

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
        maxima = []
        for conv in self.convs:
            y = conv(x)
            inside = torch.arange(y.shape[2], device=y.device) < length[:, None] + conv.kernel_size[0] - 1
            maxima.append(y.masked_fill(~inside[:, None], -torch.inf).amax(2))
        return self.out(torch.relu(torch.cat(maxima, 1)))


@sound(inputs="tokens")
class MaskedAttention(MaskedMean):
    def __init__(self):
        super().__init__(ProductAttention(16, 48))

    def mixed(self, x, tokens):
        return x + self.layer(x, (tokens != 0)[:, None, None])


@sound(inputs="tokens")
class CausalAttention(MaskedMean):
    """Masks the future only, and classifies the last real token."""

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
