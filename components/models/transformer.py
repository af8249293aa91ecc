"""A Transformer encoder like BERT's, which classifies token sequences by a class token or by their mean."""

from typing import Literal

import torch
from torch import Tensor, nn

INITIALIZATION = "xavier_normal"


class Transformer(nn.Module):
    """Token and position embeddings, encoder layers with a padding mask, and a linear layer over the pooled output.

    The architecture is that of Devlin et al. 2018, with two changes. The norm comes before each part (Xiong et al.
    2020), which trains without warm-up. A convolution adds neighboring tokens (Chu et al. 2021), since attention
    learns to use neighbors only from far more than a few thousand texts.

    Args:
        vocab_size: number of different tokens, padding included.
        num_classes: number of classes.
        max_length: length of the longest sequence; longer ones raise an error.
        padding_index: token that pads sequences at their end; no token attends to it.
        width: width of the token vectors; a multiple of ``heads``.
        heads: number of attention heads.
        layers: number of stacked layers.
        feedforward: hidden width of each layer.
        dropout: dropout rate.
        pooling: ``class_token`` prepends a trainable token and classifies its output, as BERT does; ``mean``
            classifies the mean over the real tokens.
    """

    def __init__(
        self,
        vocab_size: int,
        num_classes: int,
        max_length: int,
        padding_index: int = 0,
        width: int = 192,
        heads: int = 6,
        layers: int = 3,
        feedforward: int = 384,
        dropout: float = 0.1,
        pooling: Literal["class_token", "mean"] = "class_token",
    ):
        super().__init__()
        if pooling not in ("class_token", "mean"):
            raise ValueError(f"pooling is {pooling!r}; use class_token or mean")
        self.padding_index, self.max_length, self.pooling = padding_index, max_length, pooling
        self.tokens = nn.Embedding(vocab_size, width, padding_index)
        self.positions = nn.Parameter(torch.randn(1, max_length, width) * 0.02)
        self.neighbours = nn.Conv1d(width, width, 3, padding=1)
        self.class_token = nn.Parameter(torch.randn(1, 1, width) * 0.02) if pooling == "class_token" else None
        nn.init.normal_(self.tokens.weight, std=0.02)
        with torch.no_grad():
            self.tokens.weight[padding_index] = 0
        self.dropout = nn.Dropout(dropout)
        self.layers = nn.ModuleList(Layer(width, heads, feedforward, dropout) for _ in range(layers))
        self.norm = nn.LayerNorm(width)
        self.output = nn.Linear(width, num_classes)

    def forward(self, tokens: Tensor) -> Tensor:
        """Return logits (N, num_classes) for token ids (N, L), with L up to ``max_length``."""
        mask = tokens != self.padding_index
        x = (self.tokens(tokens) + self.positions[:, : tokens.shape[1]]) * mask.unsqueeze(2)
        x = x + nn.functional.gelu(self.neighbours(x.transpose(1, 2))).transpose(1, 2)
        if self.class_token is not None:
            x = torch.cat([self.class_token.expand(tokens.shape[0], -1, -1), x], 1)
            mask = torch.cat([torch.ones_like(mask[:, :1]), mask], 1)
        x = self.dropout(x)
        for layer in self.layers:
            x = layer(x, mask)
        x = self.norm(x)
        if self.pooling == "class_token":
            return self.output(x[:, 0])
        is_real = mask.unsqueeze(2)
        return self.output((x * is_real).sum(1) / is_real.sum(1).clamp(min=1))


class Layer(nn.Module):
    """Self-attention and a feed-forward part, each with a norm before it and a residual connection.

    Replaces ``nn.TransformerEncoderLayer``, whose fast path in evaluation computes differently than in training.
    """

    def __init__(self, width: int, heads: int, feedforward: int, dropout: float):
        super().__init__()
        if width % heads:
            raise ValueError(f"width is {width}, not a multiple of {heads} heads")
        self.heads = heads
        self.before_attention, self.before_feedforward = nn.LayerNorm(width), nn.LayerNorm(width)
        self.query_key_value, self.back = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.feedforward = nn.Sequential(
            nn.Linear(width, feedforward), nn.GELU(), nn.Dropout(dropout), nn.Linear(feedforward, width)
        )
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """Return outputs (N, L, width) for x of the same shape; tokens where the mask (N, L) is False are ignored."""
        x = x + self.dropout(self.attend(self.before_attention(x), mask))
        return x + self.dropout(self.feedforward(self.before_feedforward(x)))

    def attend(self, x: Tensor, mask: Tensor) -> Tensor:
        count, length, width = x.shape
        query, key, value = self.query_key_value(x).view(count, length, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        mixed = nn.functional.scaled_dot_product_attention(query, key, value, mask[:, None, None])
        return self.back(mixed.transpose(1, 2).reshape(count, length, width))
