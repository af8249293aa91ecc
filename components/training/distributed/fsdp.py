"""Sharding of a network across its processes by PyTorch's FSDP2 (Rajbhandari et al. 2020, ZeRO stage 3).

Each process holds its shard of the weights, gradients and optimizer state. Checkpoints and saved weights are full.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.optim import Optimizer

from torchmill.components.errors import UserError
from torchmill.components.initialization.standardized_model import StandardizedModel

SMALLEST_BLOCK = 0.02
"""Smallest share of all parameters that a block must have to be gathered on its own."""


def shard(model: StandardizedModel, device: torch.device) -> None:
    """Shard a model's parameters in place across all processes, each shard on its process's device.

    A layer of a ``ModuleList`` or a ``Sequential`` is gathered only while it is computed. All other parameters are
    gathered for the whole pass.

    Raises:
        UserError: torch can't shard the network.
    """
    mesh = init_device_mesh(device.type, (torch.distributed.get_world_size(),))
    try:
        for block in (*blocks(model.network), model):
            # Reshard the outermost block, too: it would stay gathered after a validation.
            fully_shard(block, mesh=mesh, reshard_after_forward=True)
    except (AssertionError, NotImplementedError, RuntimeError, ValueError) as error:
        raise UserError(
            f"torch cannot shard {type(model.network).__name__}: {' '.join(str(error).split())}",
            "Leave --train.shard off.",
        ) from error
    model.to(device)  # moves the buffers


def blocks(network: nn.Module) -> list[nn.Module]:
    """Return the layers to gather one at a time: large, called directly, and sharing no weight."""
    smallest = SMALLEST_BLOCK * sum(weight.numel() for weight in network.parameters())
    uses: dict[int, int] = {}
    for layer in network.modules():
        for weight in layer._parameters.values():
            uses[id(weight)] = uses.get(id(weight), 0) + 1

    def blocks_in(layer: nn.Module) -> Iterator[nn.Module]:
        for child in layer.children():
            weights = list(child.parameters())
            called = isinstance(layer, nn.ModuleList | nn.Sequential) and not isinstance(child, nn.ModuleList)
            unshared = all(uses[id(weight)] == 1 for weight in weights)
            if called and unshared and weights and sum(weight.numel() for weight in weights) >= smallest:
                yield child
            else:
                yield from blocks_in(child)

    return list(blocks_in(network))


def local_shard(value: Tensor) -> Tensor:
    """Return this process's shard."""
    return value.to_local() if isinstance(value, DTensor) else value


def gather_full(state: Any, keep: bool = True) -> Any:
    """Return a copy of a state in which sharded tensors are full, on the CPU; all processes must call it.

    Args:
        state: tensors in dictionaries and lists. Tensors that are not sharded stay as they are.
        keep: return the full tensors. Other processes only contribute their shards.
    """
    match state:
        case DTensor():
            full = state.detach().full_tensor()
            return full.cpu() if keep else None
        case dict():
            return {name: gather_full(value, keep) for name, value in state.items()}
        case list() | tuple():
            return type(state)(gather_full(value, keep) for value in state)
    return state


def shard_like(value: Any, example: Any) -> Any:
    """Shard a full tensor like an example of the same shape; return any other value unchanged."""
    if isinstance(example, DTensor) and isinstance(value, Tensor) and value.shape == example.shape:
        value = value.to(example.device, example.dtype if value.is_floating_point() else None)
        return distribute_tensor(value, example.device_mesh, example.placements, src_data_rank=None)
    return value


def shard_state(state: dict[str, Any], network: nn.Module, optimizer: Optimizer) -> dict[str, Any]:
    """Shard the tensors of a checkpoint like those of this training."""
    named = network.state_dict()
    weights = [weight for group in optimizer.param_groups for weight in group["params"]]

    def shard_network(values: dict[str, Any]) -> dict[str, Any]:
        return {name: shard_like(value, named.get(name)) for name, value in values.items()}

    optimizer_state = {
        number: {name: shard_like(value, weights[number]) for name, value in values.items()}
        for number, values in state["optimizer"]["state"].items()
    }
    ema = state["ema"]
    if ema:
        pairs = zip(ema["parameters"], network.parameters(), strict=True)
        ema = {**ema, "parameters": [shard_like(average, weight) for average, weight in pairs]}
    return {
        **state,
        "network": shard_network(state["network"]),
        "best": shard_network(state["best"]),
        "optimizer": {**state["optimizer"], "state": optimizer_state},
        "ema": ema,
    }


def unshard(network: nn.Module) -> None:
    """Replace a network's shards by full parameters on the CPU; all processes must call it."""
    full: dict[int, nn.Parameter] = {}
    for layer in network.modules():
        for name, weight in layer._parameters.items():
            if isinstance(weight, DTensor):
                if id(weight) not in full:
                    full[id(weight)] = nn.Parameter(gather_full(weight), weight.requires_grad)
                layer._parameters[name] = full[id(weight)]
