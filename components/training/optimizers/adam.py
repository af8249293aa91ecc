"""Adam (Kingma & Ba 2015); weight decay is added to the gradient."""

from torch.optim import Adam

from torchmill.components.training.optimizers import Common


def make(
    common: Common, *, betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-8, amsgrad: bool = False
) -> Adam:
    return Adam(common.groups, common.lr, betas, eps, common.weight_decay, amsgrad, fused=common.fused)
