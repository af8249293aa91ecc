"""Glorot & Bengio 2010: uniform, variance 2 / (fan_in + fan_out)."""

from torch import Generator, Tensor, nn


def fill(weight: Tensor, rng: Generator) -> None:
    nn.init.xavier_uniform_(weight, generator=rng)
