"""Normal of deviation 0.02, cut at two deviations, as in BERT and ViT."""

from torch import Generator, Tensor, nn


def fill(weight: Tensor, rng: Generator) -> None:
    nn.init.trunc_normal_(weight, std=0.02, a=-0.04, b=0.04, generator=rng)
