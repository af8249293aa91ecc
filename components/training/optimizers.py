"""Optimizers and limits of gradients by name."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, device, nn
from torch.optim import SGD, Adadelta, Adam, AdamW, Optimizer, RMSprop

from torchmill.components.errors import UserError, nearest
from torchmill.components.initialization.name_patterns import matching
from torchmill.components.training.config import TrainConfig

# Kinds of device for which torch fuses an update into one kernel; elsewhere it loops over the parameters.
FUSED_ON = ("cpu", "cuda", "mps", "xpu")


def make_optimizer(network: nn.Module, config: TrainConfig, on: device) -> Optimizer:
    """Make the optimizer over all parameters that want a gradient.

    Raises:
        UserError: its arguments don't suit it, or a pattern of ``lr_factors`` fits no parameter.
    """
    parameters = parameter_groups(network, config)
    try:
        return _made(network, config, parameters, on)
    except (TypeError, ValueError) as error:  # torch's words about its arguments
        raise UserError(f"--train.optimizer {config.optimizer} with {config.optimizer_args}: {error}.") from error


def _made(network: nn.Module, config: TrainConfig, parameters: list[dict[str, Any]], on: device) -> Optimizer:
    lr, momentum = known_lr(config), config.momentum
    held = [weight for group in parameters for weight in group["params"]]
    # Of weights that are split among processes torch does not fuse every optimizer's update.
    whole = config.shard == "off"
    fused = whole and on.type in FUSED_ON and all(weight.is_floating_point() for weight in held)
    more: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in config.optimizer_args.items()
    }
    more["weight_decay"] = config.weight_decay
    match config.optimizer:
        case "adam":
            return Adam(parameters, lr, fused=fused, **more)
        case "adamw":
            return AdamW(parameters, lr, fused=fused, **more)
        case "sgd":
            return SGD(parameters, lr, momentum, **{"nesterov": momentum > 0, "fused": fused, **more})
        case "rmsprop":
            return RMSprop(parameters, lr, momentum=momentum, **more)
        case "adadelta":
            return Adadelta(parameters, lr, **more)
        case "muon":
            spared = embeddings(network) | last_layer(network)
            matrices = {id(weight) for weight in held if weight.dim() > 1} - spared
            return Muon(parameters, lr, matrices, fused=fused, **more)


def known_lr(config: TrainConfig) -> float:
    """The learning rate; torch's usual one as long as it is to be found yet."""
    return 1e-3 if config.lr is None else config.lr


def last_layer(network: nn.Module) -> frozenset[int]:
    """Identities of the parameters of the last layer that has any."""
    layers = [layer for layer in network.modules() if next(layer.parameters(recurse=False), None) is not None]
    return frozenset(id(weight) for weight in layers[-1].parameters(recurse=False))


def embeddings(network: nn.Module) -> frozenset[int]:
    return frozenset(
        id(layer.weight) for layer in network.modules() if isinstance(layer, nn.Embedding | nn.EmbeddingBag)
    )


class Muon(Optimizer):
    """Momentum whose steps are made orthogonal, for matrices; AdamW for all else (Jordan et al. 2024).

    Weights of convolutions count as matrices of a row per output channel. Both parts are torch's own; the step is as
    large as AdamW's (Liu et al. 2025), so that one learning rate serves both.

    Args:
        matrices: identities of the parameters that Muon takes; their embeddings and the last layer are AdamW's.
        momentum, ns_steps: Muon's.
        betas, eps, fused: AdamW's.
    """

    def __init__(
        self,
        groups: list[dict[str, Any]],
        lr: float,
        matrices: set[int],
        *,
        weight_decay: float = 0.0,
        momentum: float = 0.95,
        ns_steps: int = 5,
        betas: tuple[float, float] = (0.9, 0.95),
        eps: float = 1e-8,
        fused: bool = False,
    ):
        split = [
            {**group, "params": [weight for weight in group["params"] if (id(weight) in matrices) is of_muon]}
            for of_muon in (True, False)
            for group in groups
        ]
        super().__init__([group for group in split if group["params"]], {"lr": lr, "weight_decay": weight_decay})
        of_muon = [group for group in self.param_groups if id(group["params"][0]) in matrices]
        of_adamw = self.param_groups[len(of_muon) :]
        self.matrices = {weight: as_matrix(weight.detach()) for group in of_muon for weight in group["params"]}
        self.parts: dict[str, Optimizer] = {}
        if of_muon:
            seen = [{**group, "params": [self.matrices[weight] for weight in group["params"]]} for group in of_muon]
            self.parts["muon"] = torch.optim.Muon(
                seen, lr, momentum=momentum, ns_steps=ns_steps, adjust_lr_fn="match_rms_adamw"
            )
        if of_adamw:
            self.parts["adamw"] = AdamW([dict(group) for group in of_adamw], lr, betas, eps, fused=fused)

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """Take a step by the gradients that are there."""
        inner = [group for part in self.parts.values() for group in part.param_groups]
        for group, its in zip(self.param_groups, inner, strict=True):
            its["lr"], its["weight_decay"] = group["lr"], group["weight_decay"]
        for weight, matrix in self.matrices.items():
            matrix.grad = None if weight.grad is None else as_matrix(weight.grad)
        for part in self.parts.values():
            part.step()

    def state_dict(self) -> dict[str, Any]:
        groups = [{name: value for name, value in group.items() if name != "params"} for group in self.param_groups]
        return {"groups": groups, **{name: part.state_dict() for name, part in self.parts.items()}}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        for group, held in zip(self.param_groups, state_dict["groups"], strict=True):
            group.update(held)
        for name, part in self.parts.items():
            part.load_state_dict(state_dict[name])


def as_matrix(values: Tensor) -> Tensor:
    """Give weights (out, …) as (out, all else): the same memory, in whatever format it is."""
    # In which order the columns come does not matter to what is orthogonal.
    by_stride = sorted(range(1, values.dim()), key=lambda dimension: -values.stride(dimension))
    return values.permute(0, *by_stride).flatten(1)


def parameter_groups(network: nn.Module, config: TrainConfig) -> list[dict[str, Any]]:
    """Sort the parameters that want a gradient by their learning rate and whether they decay.

    Biases, norms and whatever else is of one dimension do not decay, nor do embeddings: that would only draw them
    towards an arbitrary place (He et al. 2019, Loshchilov & Hutter 2019).

    Raises:
        UserError: a pattern of ``lr_factors`` fits no parameter, or its factor is no number.
    """
    named = {name: weight for name, weight in network.named_parameters() if weight.requires_grad}
    factors = _lr_factors(network, named, config)
    embedded = embeddings(network)
    groups: dict[tuple[float, bool], list[nn.Parameter]] = {}
    for name, weight in named.items():
        decays = weight.dim() > 1 and id(weight) not in embedded
        groups.setdefault((factors[name], decays or not config.weight_decay), []).append(weight)
    return [
        {"params": weights, "lr": known_lr(config) * factor, **({} if decays else {"weight_decay": 0.0})}
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
