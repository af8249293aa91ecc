"""A small causal Transformer decoder like GPT-2's, which predicts the next token at each place."""

from torch import Tensor, nn
from torch.nn import functional as F

TASKS = ("language_model",)
INITIALIZATION = "none"


class Gpt(nn.Module):
    """Token and position embeddings, and layers of causal attention with the norm before each part.

    The architecture is that of Radford et al. 2019; embedding and output share their weights (Press & Wolf 2017).

    Args:
        vocab_size: number of different tokens.
        max_length: length of the longest text; its first and last token come on top.
        width: width of the token vectors; a multiple of ``heads``.
        heads: number of attention heads.
        layers: number of stacked layers.
        dropout: dropout rate.
    """

    def __init__(
        self, vocab_size: int, max_length: int, width: int = 128, heads: int = 4, layers: int = 3, dropout: float = 0.1
    ):
        super().__init__()
        if width % heads:
            raise ValueError(f"width {width} is not a multiple of heads {heads}")
        self.tokens = nn.Embedding(vocab_size, width)
        self.positions = nn.Embedding(max_length + 1, width)
        self.dropout = nn.Dropout(dropout)
        self.layers = nn.ModuleList(Layer(width, heads, dropout) for _ in range(layers))
        self.norm = nn.LayerNorm(width)
        for name, weight in self.named_parameters():
            if weight.dim() > 1:
                deviation = 0.02 / (2 * layers) ** 0.5 if name.endswith("to_residual.weight") else 0.02
                nn.init.normal_(weight, std=deviation)

    def forward(self, tokens: Tensor) -> Tensor:
        """Return logits (N, L, tokens) of the token after each place.

        Args:
            tokens: int64 (N, L).
        """
        hidden = self.dropout(self.tokens(tokens) + self.positions.weight[: tokens.shape[1]])
        for layer in self.layers:
            hidden = layer(hidden)
        return F.linear(self.norm(hidden), self.tokens.weight)


class Layer(nn.Module):
    """Causal attention and a two-layer network, each added to its input."""

    def __init__(self, width: int, heads: int, dropout: float):
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.attention_norm, self.network_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.queries_keys_values, self.mixed_to_residual = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.network, self.network_to_residual = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, hidden: Tensor) -> Tensor:
        samples, length, width = hidden.shape
        parts = self.queries_keys_values(self.attention_norm(hidden)).view(samples, length, 3, self.heads, -1)
        queries, keys, values = parts.permute(2, 0, 3, 1, 4).unbind(0)
        dropout = self.dropout if self.training else 0.0
        mixed = F.scaled_dot_product_attention(queries, keys, values, dropout_p=dropout, is_causal=True)
        mixed = mixed.transpose(1, 2).reshape(samples, length, width)
        hidden = hidden + F.dropout(self.mixed_to_residual(mixed), self.dropout, self.training)
        inner = F.gelu(self.network(self.network_norm(hidden)))
        return hidden + F.dropout(self.network_to_residual(inner), self.dropout, self.training)
