"""A first run of a network and its task over named fields, on real samples."""

from collections.abc import Callable

import torch
from torch import nn

from torchmill.components.data.field_samples import read_field_sample
from torchmill.components.field_tasks.field_task import FieldTask
from torchmill.components.initialization.fields_model import FieldsModel
from torchmill.components.refs import DataRef

TRIED = 4
"""Training samples of a first run."""


def try_task(network: nn.Module, reference: str, data: DataRef) -> Callable[[nn.Module], object]:
    """Run each member of the task once in training mode and once in evaluation mode; buffers and modes are restored.

    Returns:
        A function that runs a network for the task's losses on these samples.

    Raises:
        UserError: the network doesn't take the fields, or a member of the task fails; the message says where.
    """
    task, samples = FieldTask.open(data), read_field_sample(data, TRIED, 0)
    model = FieldsModel.of(network, data, reference)
    raw = samples.take(torch.arange(len(samples)))
    modes = {layer: layer.training for layer in network.modules()}
    try:
        with torch.random.fork_rng(devices=[]):
            batch = task.drawn(model.prepared(raw))
            task.check(model.eval(), batch)
            buffers = [(buffer, buffer.clone()) for buffer in network.buffers()]
            task.check(model.train(), batch)
        with torch.no_grad():
            for buffer, before in buffers:
                buffer.copy_(before)
    finally:
        network.zero_grad(set_to_none=True)
        for layer, mode in modes.items():
            layer.training = mode

    def run(changed: nn.Module) -> object:
        return [task.loss(FieldsModel.of(changed, data, reference), batch, phase) for phase in task.phase_names]

    return run
