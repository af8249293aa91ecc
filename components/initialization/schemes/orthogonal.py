"""Orthogonal matrices (Saxe et al. 2014)."""

from torch import Generator, Tensor, nn


def fill(weight: Tensor, rng: Generator) -> None:
    nn.init.orthogonal_(weight, generator=rng)
