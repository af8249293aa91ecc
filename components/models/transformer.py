"""A Transformer encoder in BERT's form, for token sequences of any length: a class token or the mean is classified."""

from typing import Literal

import torch
from torch import Tensor, nn


class Transformer(nn.Module):
    """Token and position embeddings, encoder layers with a padding mask, and a linear layer over what is pooled.

    Devlin et al. 2018, with the norm before each part (Xiong et al. 2020), which trains without a warm-up, and with
    what stands beside a token added to it by a convolution (Chu et al. 2021): attention alone learns that from far
    more texts than a few thousand.

    Args:
        vocab_size: of the tokens, padding included.
        num_classes: width of the output.
        max_length: longest sequence; what is longer is refused.
        padding_index: the token that fills sequences up at their end; nothing attends to it.
        width: of the tokens' vectors; a multiple of ``heads``.
        heads: of the attention.
        layers: one above the other.
        feedforward: width inside of each layer.
        dropout: in training.
        pooling: ``class_token`` puts a learned token in front and classifies what becomes of it, as BERT does;
            ``mean`` classifies the mean over the sequence without its padding.
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
            raise ValueError(f"pooling is {pooling!r}; take class_token or mean")
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
        """Give logits (N, num_classes) for token ids (N, L), L up to ``max_length``."""
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
        kept = mask.unsqueeze(2)
        return self.output((x * kept).sum(1) / kept.sum(1).clamp(min=1))


class Layer(nn.Module):
    """Self-attention and a feed-forward part, each with a norm before it and what came in added behind it.

    Not ``nn.TransformerEncoderLayer``, whose fast path in evaluation is other arithmetic than in training.
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
        """Give (N, L, width) for x of that shape; what the mask (N, L) has as False is not attended to."""
        x = x + self.dropout(self.attend(self.before_attention(x), mask))
        return x + self.dropout(self.feedforward(self.before_feedforward(x)))

    def attend(self, x: Tensor, mask: Tensor) -> Tensor:
        count, length, width = x.shape
        query, key, value = self.query_key_value(x).view(count, length, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        mixed = nn.functional.scaled_dot_product_attention(query, key, value, mask[:, None, None])
        return self.back(mixed.transpose(1, 2).reshape(count, length, width))
