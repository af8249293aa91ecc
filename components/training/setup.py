"""The inputs of one training, as one thing."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from torchmill.components.data.augmentation import Augmentation
from torchmill.components.data.field_augmentation import FieldAugmentation
from torchmill.components.data.field_samples import FieldSamples
from torchmill.components.data.samples import Samples
from torchmill.components.errors import UserError
from torchmill.components.field_tasks.field_task import FieldTask
from torchmill.components.refs import DataRef
from torchmill.components.training.config import TrainConfig


@dataclass(frozen=True)
class TrainingSetup:
    """A network, its data and its settings: the argument of ``fit``, of trial runs and of ``find_lr``.

    Example:
        >>> training, validation = read_training(data)  # doctest: +SKIP
        >>> setup = TrainingSetup(network, training, validation, data, TrainConfig(), torch.device("cpu"), seed=0)
        >>> setup = dataclasses.replace(setup, config=other)  # doctest: +SKIP
    """

    network: nn.Module
    """Network, which ``fit`` trains in place; trial runs train a copy."""
    training: Samples | FieldSamples
    validation: Samples | FieldSamples
    data: DataRef
    """Description of the data set: its task, shape and statistics."""
    config: TrainConfig
    device: torch.device
    seed: int
    """Seed of the order of samples, of augmentation and of the network's random numbers."""

    def augmentation(self) -> Callable[[Any, int, int, Tensor], Any]:
        """Return a function from a batch, its epoch, its number and its samples' numbers to the changed batch."""
        config = self.config
        if self.data.goal:
            if config.mixup or config.cutmix:
                raise UserError("--train.mixup and --train.cutmix are for tasks of labels.", "Leave them out.")
            return FieldAugmentation(self.data, self.seed, config.augment, FieldTask.open(self.data).views)
        return Augmentation(self.data, self.seed, config.augment, config.mixup, config.cutmix)
