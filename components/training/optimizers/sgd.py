"""Stochastic gradient descent with momentum, Nesterov's unless there is no momentum."""

from torch.optim import SGD

from torchmill.components.training.optimizers import Common

USUAL_LR = 0.1


def make(common: Common, *, nesterov: bool | None = None, dampening: float = 0.0) -> SGD:
    nesterov = common.momentum > 0 if nesterov is None else nesterov
    return SGD(common.groups, common.lr, common.momentum, dampening, common.weight_decay, nesterov, fused=common.fused)
