"""Glorot & Bengio 2010: normal, variance 2 / (fan_in + fan_out)."""

from torch import Generator, Tensor, nn


def fill(weight: Tensor, rng: Generator) -> None:
    nn.init.xavier_normal_(weight, generator=rng)
