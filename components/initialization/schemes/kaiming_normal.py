"""He et al. 2015: normal, variance 2 / fan_in."""

from torch import Generator, Tensor, nn

MADE_FOR = "relu"


def fill(weight: Tensor, rng: Generator) -> None:
    nn.init.kaiming_normal_(weight, nonlinearity="relu", generator=rng)
