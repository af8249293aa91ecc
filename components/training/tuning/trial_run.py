"""A copy of a network, ready to take a few steps of a training by which something is found out."""

import contextlib
import copy
from collections.abc import Generator, Iterator
from itertools import count

import torch
from torch import Tensor, nn

from torchmill.components.data.augmentation.augment import Augmentation
from torchmill.components.data.samples import Samples
from torchmill.components.refs import DataRef
from torchmill.components.training.config import TrainConfig
from torchmill.components.training.fit import as_trained, batch_orders, known_batch_size
from torchmill.components.training.losses import make_loss
from torchmill.components.training.rng import random_states, seed_all, set_random_states
from torchmill.components.training.state import Training

Batches = Iterator[tuple[Tensor, Tensor]]
"""As they are trained on, without an end."""


@contextlib.contextmanager
def trial_run(
    network: nn.Module,
    training: Samples,
    data: DataRef,
    config: TrainConfig,
    device: torch.device,
    seed: int,
    steps: int,
) -> Generator[tuple[Training, Batches]]:
    """Give a training of a copy of the network, and its batches; network and random states are left as they were.

    Args:
        steps: over which its schedule goes.
    """
    states = random_states(device)
    config = config.model_copy(update={"shard": "off"})  # there is one process
    try:
        model = as_trained(copy.deepcopy(network), config, device, data)
        objective = make_loss(config, data, training).to(device)
        state = Training(model, objective, data.task, config, device, steps)
        seed_all(seed)
        state.train_mode()
        yield state, _batches(training.to(device), Augmentation(config, data, seed), known_batch_size(config), seed)
    finally:
        set_random_states(states, device)


def _batches(training: Samples, augment: Augmentation, batch_size: int, seed: int) -> Batches:
    for epoch in count(1):
        orders = batch_orders(len(training), batch_size, seed, epoch, lengths=training.lengths)
        for number, indices in enumerate(orders):
            yield augment(*training.take(indices), epoch, number, indices)
