"""He et al. 2015: uniform, variance 2 / fan_in."""

from torch import Generator, Tensor, nn

MADE_FOR = "relu"


def fill(weight: Tensor, rng: Generator) -> None:
    nn.init.kaiming_uniform_(weight, nonlinearity="relu", generator=rng)
