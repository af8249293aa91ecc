"""Adadelta (Zeiler 2012): steps scaled by the size of the steps before."""

from torch.optim import Adadelta

from torchmill.components.training.optimizers import Common

USUAL_LR = 1.0


def make(common: Common, *, rho: float = 0.9, eps: float = 1e-6) -> Adadelta:
    return Adadelta(common.groups, common.lr, rho, eps, common.weight_decay)
