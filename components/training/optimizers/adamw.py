"""Adam with weight decay apart from the gradient (Loshchilov & Hutter 2019)."""

from torch.optim import AdamW

from torchmill.components.training.optimizers import Common


def make(
    common: Common, *, betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-8, amsgrad: bool = False
) -> AdamW:
    return AdamW(common.groups, common.lr, betas, eps, common.weight_decay, amsgrad, fused=common.fused)
