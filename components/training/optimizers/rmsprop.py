"""RMSprop (Hinton 2012): gradients over a running root mean square of them."""

from torch.optim import RMSprop

from torchmill.components.training.optimizers import Common


def make(common: Common, *, alpha: float = 0.99, eps: float = 1e-8, centered: bool = False) -> RMSprop:
    return RMSprop(common.groups, common.lr, alpha, eps, common.weight_decay, common.momentum, centered)
