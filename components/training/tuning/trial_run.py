"""A trial run: a few steps of training a copy of the network, to measure something."""

import contextlib
import copy
from collections.abc import Generator, Iterator
from itertools import count

from torch import Tensor

from torchmill.components.data.augmentation import Augmentation
from torchmill.components.data.samples import Samples
from torchmill.components.training.fit import as_trained, batch_orders, known_batch_size
from torchmill.components.training.losses import make_loss
from torchmill.components.training.rng import random_states, seed_all, set_random_states
from torchmill.components.training.setup import TrainingSetup
from torchmill.components.training.state import Training

Batches = Iterator[tuple[Tensor, Tensor]]
"""Endless batches of inputs and labels, augmented as in a training."""


@contextlib.contextmanager
def trial_run(setup: TrainingSetup, steps: int) -> Generator[tuple[Training, Batches]]:
    """Yield a training of a copy of the network, and its batches; the network and the random states don't change.

    Args:
        steps: length of the learning rate's schedule.
    """
    data, device, seed = setup.data, setup.device, setup.seed
    states = random_states(device)
    config = setup.config.model_copy(update={"shard": "off"})  # a trial has one process
    try:
        model = as_trained(copy.deepcopy(setup.network), config, device, data)
        objective = make_loss(config, data, setup.training).to(device)
        state = Training(model, objective, data.task, config, device, steps)
        seed_all(seed)
        state.train_mode()
        augment = Augmentation(config, data, seed)
        yield state, _batches(setup.training.to(device), augment, known_batch_size(config), seed)
    finally:
        set_random_states(states, device)


def _batches(training: Samples, augment: Augmentation, batch_size: int, seed: int) -> Batches:
    for epoch in count(1):
        orders = batch_orders(len(training), batch_size, seed, epoch, lengths=training.lengths)
        for number, indices in enumerate(orders):
            yield augment(*training.take(indices), epoch, number, indices)
