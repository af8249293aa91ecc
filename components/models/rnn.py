"""A recurrent classifier of token sequences of any length: LSTM, GRU or plain RNN, in one or both directions."""

from typing import Literal

import torch
from torch import Tensor, nn

INITIALIZATION = "xavier_normal"


class RNN(nn.Module):
    """Embedding, recurrent layers, and a linear layer over the mean and the maximum of their outputs.

    Masks exclude padding, since ``pack_padded_sequence`` does not export to ONNX. For the backward direction, each
    sequence is reversed within its own length, so that its padding stays at the end.

    Args:
        vocab_size: number of different tokens, padding included.
        num_classes: number of classes.
        padding_index: token that pads sequences at their end.
        cell: kind of the recurrent layers.
        embedding: width of the token vectors.
        hidden: width of each layer and direction.
        layers: number of stacked layers.
        bidirectional: read sequences backward too.
        dropout: dropout rate before each layer and the output.
    """

    def __init__(
        self,
        vocab_size: int,
        num_classes: int,
        padding_index: int = 0,
        cell: Literal["lstm", "gru", "rnn"] = "lstm",
        embedding: int = 128,
        hidden: int = 256,
        layers: int = 1,
        bidirectional: bool = True,
        dropout: float = 0.2,
    ):
        super().__init__()
        if cell not in CELLS:
            raise ValueError(f"cell is {cell!r}; use lstm, gru or rnn")
        self.padding_index = padding_index
        self.embedding = nn.Embedding(vocab_size, embedding, padding_index)
        self.dropout = nn.Dropout(dropout)
        read = hidden * (2 if bidirectional else 1)
        widths = [embedding, *[read] * (layers - 1)]
        self.forwards = nn.ModuleList(CELLS[cell](width, hidden, batch_first=True) for width in widths)
        self.backwards = nn.ModuleList(
            CELLS[cell](width, hidden, batch_first=True) for width in (widths if bidirectional else [])
        )
        self.output = nn.Linear(2 * read, num_classes)

    def forward(self, tokens: Tensor) -> Tensor:
        """Return logits (N, num_classes) for token ids (N, L)."""
        positions = torch.arange(tokens.shape[1], device=tokens.device)
        # Length up to the last real token, and at least 1, so that the mean is defined.
        lengths = torch.where(tokens != self.padding_index, positions + 1, 1).amax(1)
        mask = positions < lengths[:, None]
        order = torch.where(mask, lengths[:, None] - 1 - positions, positions)
        x = self.embedding(tokens)
        for number, forwards in enumerate(self.forwards):
            x = self.dropout(x)
            read = forwards(x)[0]
            if self.backwards:
                reversed_read = self.backwards[number](reorder(x, order))[0]
                read = torch.cat([read, reorder(reversed_read, order)], 2)
            x = read
        is_real = mask.unsqueeze(2)
        mean = (x * is_real).sum(1) / lengths[:, None]
        largest = x.masked_fill(~is_real, -torch.inf).amax(1)
        return self.output(self.dropout(torch.cat([mean, largest], 1)))


CELLS = {"lstm": nn.LSTM, "gru": nn.GRU, "rnn": nn.RNN}


def reorder(x: Tensor, order: Tensor) -> Tensor:
    """Return each sequence of x (N, L, F) in its own order (N, L)."""
    return x.gather(1, order.unsqueeze(2).expand(-1, -1, x.shape[2]))
