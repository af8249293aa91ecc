"""A recurrent classifier of token sequences of any length: LSTM, GRU or plain RNN, one or both directions."""

from typing import Literal

import torch
from torch import Tensor, nn


class RNN(nn.Module):
    """Embedding, recurrent layers, and a linear layer over the mean and the maximum of their outputs.

    Padding is left out by masks and by the sequences' lengths, not by ``pack_padded_sequence``, which does not export
    to ONNX. In a backward direction the padding comes first: each sequence is turned round within its own length.

    Args:
        vocab_size: of the tokens, padding included.
        num_classes: width of the output.
        padding_index: the token that fills sequences up at their end.
        cell: of the recurrent layers.
        embedding: width of the tokens' vectors.
        hidden: width of each layer and direction.
        layers: one above the other.
        bidirectional: read backwards, too.
        dropout: share of what is left out at random before each layer and the output, in training.
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
            raise ValueError(f"cell is {cell!r}; take lstm, gru or rnn")
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
        """Give logits (N, num_classes) for token ids (N, L)."""
        positions = torch.arange(tokens.shape[1], device=tokens.device)
        # Up to the last token that is no padding, and never nothing at all: a mean needs something to be of.
        lengths = torch.where(tokens != self.padding_index, positions + 1, 1).amax(1)
        mask = positions < lengths[:, None]
        order = torch.where(mask, lengths[:, None] - 1 - positions, positions)
        x = self.embedding(tokens)
        for number, forwards in enumerate(self.forwards):
            x = self.dropout(x)
            read = forwards(x)[0]
            if self.backwards:
                turned = self.backwards[number](turn(x, order))[0]
                read = torch.cat([read, turn(turned, order)], 2)
            x = read
        kept = mask.unsqueeze(2)
        mean = (x * kept).sum(1) / lengths[:, None]
        largest = x.masked_fill(~kept, -torch.inf).amax(1)
        return self.output(self.dropout(torch.cat([mean, largest], 1)))


CELLS = {"lstm": nn.LSTM, "gru": nn.GRU, "rnn": nn.RNN}


def turn(x: Tensor, order: Tensor) -> Tensor:
    """Give each sequence (N, L, F) in its own order (N, L)."""
    return x.gather(1, order.unsqueeze(2).expand(-1, -1, x.shape[2]))
