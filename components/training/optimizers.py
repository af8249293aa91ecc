"""Optimizers and schedules of the learning rate by name."""

from torch import device, nn
from torch.optim import SGD, Adam, AdamW, Optimizer, RMSprop
from torch.optim.lr_scheduler import CosineAnnealingLR, LambdaLR, LRScheduler, OneCycleLR, StepLR

from components.config import TrainConfig

# Kinds of device for which torch fuses an update into one kernel; elsewhere it loops over the parameters.
FUSED_ON = ("cpu", "cuda", "mps", "xpu")


def make_optimizer(network: nn.Module, config: TrainConfig, on: device) -> Optimizer:
    """Make the optimizer over all parameters that want a gradient."""
    parameters = [parameter for parameter in network.parameters() if parameter.requires_grad]
    lr, decay = config.lr, config.weight_decay
    fused = on.type in FUSED_ON and all(parameter.is_floating_point() for parameter in parameters)
    match config.optimizer:
        case "adam":
            return Adam(parameters, lr, weight_decay=decay, fused=fused)
        case "adamw":
            return AdamW(parameters, lr, weight_decay=decay, fused=fused)
        case "sgd":
            nesterov = config.momentum > 0
            return SGD(parameters, lr, config.momentum, weight_decay=decay, nesterov=nesterov, fused=fused)
        case "rmsprop":
            return RMSprop(parameters, lr, weight_decay=decay, momentum=config.momentum)


def make_schedule(optimizer: Optimizer, config: TrainConfig, steps: int) -> LRScheduler:
    """Make the schedule over ``steps`` optimizer steps; its ``step()`` follows each of the optimizer's."""
    match config.schedule:
        case "one_cycle" if steps > 1:
            # Smith & Topin 2018: up over 30 % of the steps, down along a cosine, momentum against it
            return OneCycleLR(optimizer, max_lr=config.lr, total_steps=steps)
        case "cosine":  # Loshchilov & Hutter 2017, without restarts
            return CosineAnnealingLR(optimizer, T_max=steps)
        case "step":  # a tenth after each third
            return StepLR(optimizer, step_size=max(1, -(-steps // 3)), gamma=0.1)
        case _:  # constant; and a cycle of one step, which would never leave its beginning at a 25th of the rate
            return LambdaLR(optimizer, lambda _: 1.0)
