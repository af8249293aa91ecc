"""A network that is split among the processes that train it: each keeps its part of every weight, of its gradient and
of what the optimizer knows of it (PyTorch's FSDP2; Rajbhandari et al. 2020, ZeRO stage 3).

What leaves a training is whole: checkpoints and weights are those of a training that is not split.
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

LEAST_BLOCK = 0.02
"""Share of all parameters that a block has at least, to be put together on its own before it is computed."""


def shard(model: StandardizedModel, device: torch.device) -> None:
    """Split a model's parameters, in place, among all processes; each holds its part on its device.

    Layers of a ``ModuleList`` or a ``Sequential`` are whole only while they are computed, one after the other; the
    rest is as long as the whole network is.

    Raises:
        UserError: the network is one that torch cannot split.
    """
    mesh = init_device_mesh(device.type, (torch.distributed.get_world_size(),))
    try:
        for block in (*blocks(model.network), model):
            # The outermost one, too: it would stay whole behind a validation.
            fully_shard(block, mesh=mesh, reshard_after_forward=True)
    except (AssertionError, NotImplementedError, RuntimeError, ValueError) as error:
        raise UserError(
            f"torch cannot split {type(model.network).__name__} among processes: {' '.join(str(error).split())}",
            "Leave --train.shard off.",
        ) from error
    model.to(device)  # what is no parameter


def blocks(network: nn.Module) -> list[nn.Module]:
    """Layers that are worth being put together one at a time: large, called by themselves, sharing no weight."""
    parameters = list(network.parameters())
    least = LEAST_BLOCK * sum(weight.numel() for weight in parameters)
    uses: dict[int, int] = {}
    for layer in network.modules():
        for weight in layer._parameters.values():
            uses[id(weight)] = uses.get(id(weight), 0) + 1

    def within(layer: nn.Module) -> Iterator[nn.Module]:
        for child in layer.children():
            own = list(child.parameters())
            called = isinstance(layer, nn.ModuleList | nn.Sequential) and not isinstance(child, nn.ModuleList)
            alone = all(uses[id(weight)] == 1 for weight in own)
            if called and alone and own and sum(weight.numel() for weight in own) >= least:
                yield child
            else:
                yield from within(child)

    return list(within(network))


def local(value: Tensor) -> Tensor:
    """This process's part."""
    return value.to_local() if isinstance(value, DTensor) else value


def whole(state: Any, keep: bool = True) -> Any:
    """Put what is split together, on the processor; all processes have to ask for it.

    Args:
        state: tensors in dictionaries and lists. What is not split stays as it is.
        keep: others only help to put it together.
    """
    match state:
        case DTensor():
            together = state.detach().full_tensor()
            return together.cpu() if keep else None
        case dict():
            return {name: whole(value, keep) for name, value in state.items()}
        case list() | tuple():
            return type(state)(whole(value, keep) for value in state)
    return state


def split_like(value: Any, example: Any) -> Any:
    """Split a whole tensor as an example is; what is no tensor, or of another shape, stays as it is."""
    if isinstance(example, DTensor) and isinstance(value, Tensor) and value.shape == example.shape:
        value = value.to(example.device, example.dtype if value.is_floating_point() else None)
        return distribute_tensor(value, example.device_mesh, example.placements, src_data_rank=None)
    return value


def split_state(state: dict[str, Any], network: nn.Module, optimizer: Optimizer) -> dict[str, Any]:
    """Split what a checkpoint holds of a training, as the parts of this one are."""
    named = network.state_dict()
    listed, grouped = (
        list(network.parameters()),
        [weight for group in optimizer.param_groups for weight in group["params"]],
    )

    def of_network(values: dict[str, Any]) -> dict[str, Any]:
        return {name: split_like(value, named.get(name)) for name, value in values.items()}

    kept = {
        number: {name: split_like(value, grouped[number]) for name, value in values.items()}
        for number, values in state["optimizer"]["state"].items()
    }
    average = state["ema"]
    if average:
        parameters = [split_like(value, its) for value, its in zip(average["parameters"], listed, strict=True)]
        average = {**average, "parameters": parameters}
    return {
        **state,
        "network": of_network(state["network"]),
        "best": of_network(state["best"]),
        "optimizer": {**state["optimizer"], "state": kept},
        "ema": average,
    }


def put_together(network: nn.Module) -> None:
    """Have a network hold its parameters whole again, on the processor; all processes have to do so."""
    found: dict[int, nn.Parameter] = {}
    for layer in network.modules():
        for name, weight in layer._parameters.items():
            if isinstance(weight, DTensor):
                if id(weight) not in found:
                    found[id(weight)] = nn.Parameter(whole(weight), weight.requires_grad)
                layer._parameters[name] = found[id(weight)]
