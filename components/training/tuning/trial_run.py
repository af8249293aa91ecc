"""A trial run: a few training steps of a copy of the network, to measure speed or loss."""

import contextlib
import copy
from collections.abc import Generator, Iterator
from dataclasses import replace
from itertools import count

from torchmill.components.training.batches import batch_size_of, epoch_batches
from torchmill.components.training.learning import AnyBatch
from torchmill.components.training.rng import rng_states, seed_all, set_rng_states
from torchmill.components.training.setup import TrainingSetup
from torchmill.components.training.state import TrainingState

Batches = Iterator[AnyBatch]
"""Endless batches, augmented as in training."""


@contextlib.contextmanager
def trial_run(setup: TrainingSetup, steps: int) -> Generator[tuple[TrainingState, Batches]]:
    """Yield the training state of a copy of the network, and its batches; network and rng states don't change.

    Args:
        steps: length of the learning rate's schedule.
    """
    states = rng_states(setup.device)
    config = setup.config.model_copy(update={"shard": "off"})  # a trial run has one process
    setup = replace(setup, network=copy.deepcopy(setup.network), config=config)
    try:
        state = TrainingState.begin(setup, steps)
        seed_all(setup.seed)
        state.train_mode()
        yield state, _batches(setup)
    finally:
        set_rng_states(states, setup.device)


def _batches(setup: TrainingSetup) -> Batches:
    training, augment = setup.training.to(setup.device), setup.augmentation()
    for epoch in count(1):
        size = batch_size_of(setup.config)
        batches = epoch_batches(len(training), size, setup.seed, epoch, lengths=training.lengths)
        for number, indices in enumerate(batches):
            yield augment(training.take(indices), epoch, number, indices)
