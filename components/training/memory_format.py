"""The memory format that a network trains in: contiguous, or channels-last for convolutions."""

import torch
from torch import nn

from torchmill.components.batches.field_refs import inputs_of
from torchmill.components.data.named_fields import named_fields
from torchmill.components.errors import UserError
from torchmill.components.initialization.fields_model import FieldsModel
from torchmill.components.initialization.standardized_model import StandardizedModel, blank
from torchmill.components.initialization.task_trial import try_task
from torchmill.components.refs import DataRef
from torchmill.components.training.config import TrainConfig


def prepare_model(
    network: nn.Module, config: TrainConfig, device: torch.device, data: DataRef
) -> StandardizedModel | FieldsModel:
    """Return the network, not a copy, on its device, in its memory format and behind the data's standardization.

    A network to be sharded stays on the CPU, because it may not fit on one device.
    """
    if data.goal and config.shard == "on":
        raise UserError("--train.shard on is for tasks of labels.", "Leave it off.")
    channels_last = wants_channels_last(network, config, device, data)
    if channels_last:
        network.to(memory_format=torch.channels_last)
    if data.goal:
        return FieldsModel.of(network, data, channels_last=channels_last).to(device)
    model = StandardizedModel.of(network, data, channels_last=channels_last, in_units=False)
    return model if config.shard == "on" else model.to(device)


@torch.no_grad()
def wants_channels_last(network: nn.Module, config: TrainConfig, device: torch.device, data: DataRef) -> bool:
    """Decide whether to train in channels-last, the native format of convolutions on CPUs and on tensor cores.

    ``auto`` chooses it for a network with 2-d convolutions if a pass on the CPU succeeds: a ``view`` after a
    convolution fails on it, for example.

    Raises:
        UserError: the setting is ``on``, but the network fails on channels-last images.
    """
    kinds = [field.kind for field in inputs_of(named_fields(data))]
    has_images = "image" in kinds if data.goal else len(data.shape) == 3
    convolves = has_images and any(isinstance(layer, nn.Conv2d) for layer in network.modules())
    if config.shard == "on" or config.channels_last == "off" or (config.channels_last == "auto" and not convolves):
        return False
    if config.channels_last == "auto" and device.type not in ("cpu", "cuda"):
        return False
    modes = {layer: layer.training for layer in network.modules()}
    network.eval().to(memory_format=torch.channels_last)
    try:
        with torch.random.fork_rng(devices=[]):
            _try(network, data)
    except (RuntimeError, UserError) as error:
        if config.channels_last == "on":
            raise UserError(
                f"The network fails on channels-last images: {' '.join(str(error).split())}",
                "Leave --train.channels_last at auto, or write reshape for view.",
            ) from error
        return False
    finally:
        network.to(memory_format=torch.contiguous_format)
        for layer, mode in modes.items():
            layer.training = mode
    return True


def _try(network: nn.Module, data: DataRef) -> None:
    if data.goal:
        try_task(network, type(network).__name__, data)
    else:
        network(blank(data).to(memory_format=torch.channels_last))
