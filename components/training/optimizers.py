"""Optimizers, schedules of the learning rate and limits of gradients by name."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, device, nn
from torch.optim import SGD, Adam, AdamW, Optimizer, RMSprop
from torch.optim.lr_scheduler import CosineAnnealingLR, LambdaLR, LRScheduler, OneCycleLR, StepLR

from components.config import TrainConfig
from components.errors import UserError, nearest
from components.patterns import matching

# Kinds of device for which torch fuses an update into one kernel; elsewhere it loops over the parameters.
FUSED_ON = ("cpu", "cuda", "mps", "xpu")


def make_optimizer(network: nn.Module, config: TrainConfig, on: device) -> Optimizer:
    """Make the optimizer over all parameters that want a gradient."""
    parameters = parameter_groups(network, config)
    lr, decay = config.lr, config.weight_decay
    fused = on.type in FUSED_ON and all(one.is_floating_point() for group in parameters for one in group["params"])
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


def parameter_groups(network: nn.Module, config: TrainConfig) -> list[dict[str, Any]]:
    """Sort the parameters that want a gradient by their learning rate and whether they decay.

    Biases, norms and whatever else is of one dimension do not decay, nor do embeddings: that would only draw them
    towards an arbitrary place (He et al. 2019, Loshchilov & Hutter 2019).

    Raises:
        UserError: a pattern of ``lr_factors`` fits no parameter, or its factor is no number.
    """
    named = {name: weight for name, weight in network.named_parameters() if weight.requires_grad}
    factors = _lr_factors(network, named, config)
    embedded = {id(layer.weight) for layer in network.modules() if isinstance(layer, nn.Embedding | nn.EmbeddingBag)}
    groups: dict[tuple[float, bool], list[nn.Parameter]] = {}
    for name, weight in named.items():
        decays = weight.dim() > 1 and id(weight) not in embedded
        groups.setdefault((factors[name], decays or not config.weight_decay), []).append(weight)
    return [
        {"params": weights, "lr": config.lr * factor, **({} if decays else {"weight_decay": 0.0})}
        for (factor, decays), weights in groups.items()
    ]


def _lr_factors(network: nn.Module, named: dict[str, nn.Parameter], config: TrainConfig) -> dict[str, float]:
    """The share of the learning rate that each parameter gets."""
    # A layer is whatever holds parameters of its own; the last one gets the whole rate.
    layers = list(dict.fromkeys(name.rpartition(".")[0] for name, _ in network.named_parameters()))
    depth = {layer: len(layers) - 1 - place for place, layer in enumerate(layers)}
    factors = {name: config.layer_decay ** depth[name.rpartition(".")[0]] for name in named}
    for pattern, factor in config.lr_factors.items():
        if not isinstance(factor, int | float) or isinstance(factor, bool) or factor <= 0:
            raise UserError(f"--train.lr_factors: '{pattern}' has {factor!r}, not a number above 0.")
        fitting = matching(pattern, named)
        if not fitting:
            raise UserError(f"--train.lr_factors: no trained parameter fits '{pattern}'.", nearest(pattern, named))
        factors |= {name: factors[name] * factor for name in fitting}
    return factors


AGC_EPSILON = 1e-3
"""Of a unit's weights: smaller ones count as so large, or zeros could never grow (Brock et al. 2021)."""


@torch.no_grad()
def clip_gradients(parameters: Iterable[nn.Parameter], kind: str, limit: float, last: frozenset[int]) -> None:
    """Limit gradients in place.

    Args:
        kind: ``norm`` of all together, ``value`` of each element, or ``agc``: of each unit beside its weights' norm.
        last: identities of the last layer's parameters, which AGC leaves alone, as its authors do.
    """
    held = [weight for weight in parameters if weight.grad is not None]
    match kind:
        case "norm":
            nn.utils.clip_grad_norm_(held, limit)
        case "value":
            nn.utils.clip_grad_value_(held, limit)
        case "agc":
            for weight in held:
                if weight.grad is None or id(weight) in last:
                    continue
                largest = _unit_norms(weight).clamp(min=AGC_EPSILON) * limit
                norms = _unit_norms(weight.grad)
                weight.grad.mul_((largest / norms.clamp(min=1e-6)).clamp(max=1))


def _unit_norms(values: Tensor) -> Tensor:
    """Norms over each unit's own weights: all but the first dimension; elements of what has only one."""
    return (
        values.abs()
        if values.dim() < 2
        else torch.linalg.vector_norm(values, dim=tuple(range(1, values.dim())), keepdim=True)
    )


def make_schedule(optimizer: Optimizer, config: TrainConfig, steps: int) -> LRScheduler:
    """Make the schedule over ``steps`` optimizer steps; its ``step()`` follows each of the optimizer's."""
    match config.schedule:
        case "one_cycle" if steps > 1:
            # Smith & Topin 2018: up over 30 % of the steps, down along a cosine, momentum against it
            return OneCycleLR(optimizer, max_lr=[group["lr"] for group in optimizer.param_groups], total_steps=steps)
        case "cosine":  # Loshchilov & Hutter 2017, without restarts
            return CosineAnnealingLR(optimizer, T_max=steps)
        case "step":  # a tenth after each third
            return StepLR(optimizer, step_size=max(1, -(-steps // 3)), gamma=0.1)
        case _:  # constant; and a cycle of one step, which would never leave its beginning at a 25th of the rate
            return LambdaLR(optimizer, lambda _: 1.0)
