"""Optimizers, one per file: a file with ``make(common, *, …)`` is an option. Shared: parameter groups and clipping."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, device, nn
from torch.optim import Optimizer

from torchmill.components.errors import UserError, nearest
from torchmill.components.initialization.name_patterns import matching
from torchmill.components.training.config import OPTIMIZERS, TrainConfig

FUSED_ON = ("cpu", "cuda", "mps", "xpu")
"""Devices for which torch fuses an update into one kernel; on others it loops over the parameters."""


@dataclass(frozen=True)
class Common:
    """Settings that every optimizer is made with.

    Example:
        def make(common: Common, *, eps: float = 1e-8) -> Optimizer:
            return Adam(common.groups, common.lr, eps=eps, weight_decay=common.weight_decay, fused=common.fused)
    """

    network: nn.Module
    groups: list[dict[str, Any]]
    """Parameters with their learning rate and, where it differs, their weight decay."""
    lr: float
    momentum: float
    weight_decay: float
    fused: bool
    """True if torch can fuse the update."""


def make_optimizer(
    network: nn.Module, config: TrainConfig, on: device, names: frozenset[str] | None = None
) -> Optimizer:
    """Make the optimizer over all parameters that require a gradient, or over those of some names.

    Raises:
        UserError: its arguments don't suit it, or a pattern of ``lr_factors`` fits no parameter.
    """
    groups = parameter_groups(network, config, names)
    weights = [weight for group in groups for weight in group["params"]]
    # Torch fuses the update of some optimizers only if each process has the weights whole.
    fused = config.shard == "off" and on.type in FUSED_ON and all(weight.is_floating_point() for weight in weights)
    common = Common(network, groups, known_lr(config), config.momentum, config.weight_decay, fused)
    arguments = {
        name: tuple(value) if isinstance(value, list) else value for name, value in config.optimizer_args.items()
    }
    try:
        return OPTIMIZERS.load(config.optimizer).make(common, **arguments)
    except (TypeError, ValueError) as error:  # torch's words about its arguments
        raise UserError(f"--train.optimizer {config.optimizer} with {config.optimizer_args}: {error}.") from error


def known_lr(config: TrainConfig) -> float:
    """Return the learning rate; torch's default as long as the search for it is still to come."""
    return 1e-3 if config.lr is None else config.lr


def last_layer(network: nn.Module) -> frozenset[int]:
    """Return the ids of the parameters of the last layer that has any."""
    layers = [layer for layer in network.modules() if next(layer.parameters(recurse=False), None) is not None]
    return frozenset(id(weight) for weight in layers[-1].parameters(recurse=False))


def embeddings(network: nn.Module) -> frozenset[int]:
    """Return the ids of the weights of embeddings."""
    return frozenset(
        id(layer.weight) for layer in network.modules() if isinstance(layer, nn.Embedding | nn.EmbeddingBag)
    )


def parameter_groups(
    network: nn.Module, config: TrainConfig, names: frozenset[str] | None = None
) -> list[dict[str, Any]]:
    """Group the parameters that require a gradient by learning rate and by whether they decay.

    Biases, norms, all else of one dimension, and embeddings don't decay: decay would only draw them towards an
    arbitrary place (He et al. 2019, Loshchilov & Hutter 2019).

    Raises:
        UserError: a pattern of ``lr_factors`` fits no parameter, or its factor is no number.
    """
    named = {name: weight for name, weight in network.named_parameters() if weight.requires_grad}
    factors = _lr_factors(network, named, config)
    embedded = embeddings(network)
    groups: dict[tuple[float, bool], list[nn.Parameter]] = {}
    for name, weight in named.items():
        if names is not None and name not in names:
            continue
        decays = weight.dim() > 1 and id(weight) not in embedded
        groups.setdefault((factors[name], decays or not config.weight_decay), []).append(weight)
    return [
        {"params": weights, "lr": known_lr(config) * factor, **({} if decays else {"weight_decay": 0.0})}
        for (factor, decays), weights in groups.items()
    ]


def _lr_factors(network: nn.Module, named: dict[str, nn.Parameter], config: TrainConfig) -> dict[str, float]:
    """Return the factor of the learning rate of each parameter."""
    # A layer is a module that owns parameters. The last layer gets the full rate.
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
"""Smallest norm that a unit's weights count with: weights of zero could never grow otherwise (Brock et al. 2021)."""


@torch.no_grad()
def clip_gradients(parameters: Iterable[nn.Parameter], kind: str, limit: float, last: frozenset[int]) -> None:
    """Clip gradients in place.

    Args:
        kind: ``norm`` clips the norm of all gradients, ``value`` each element, ``agc`` each unit's gradient by the
            norm of its weights.
        last: ids of the last layer's parameters. AGC leaves them alone, as its authors do.
    """
    clipped = [weight for weight in parameters if weight.grad is not None]
    match kind:
        case "norm":
            nn.utils.clip_grad_norm_(clipped, limit)
        case "value":
            nn.utils.clip_grad_value_(clipped, limit)
        case "agc":
            for weight in clipped:
                if weight.grad is None or id(weight) in last:
                    continue
                largest = _unit_norms(weight).clamp(min=AGC_EPSILON) * limit
                norms = _unit_norms(weight.grad)
                weight.grad.mul_((largest / norms.clamp(min=1e-6)).clamp(max=1))


def _unit_norms(values: Tensor) -> Tensor:
    """Return the norm of each unit's weights, over all dimensions but the first; of vectors the absolute elements."""
    return (
        values.abs()
        if values.dim() < 2
        else torch.linalg.vector_norm(values, dim=tuple(range(1, values.dim())), keepdim=True)
    )
