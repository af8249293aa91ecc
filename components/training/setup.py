"""The inputs of one training, as one thing."""

from dataclasses import dataclass

import torch
from torch import nn

from torchmill.components.data.augmentation import Augmentation
from torchmill.components.data.samples import Samples
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
    training: Samples
    validation: Samples
    data: DataRef
    """Description of the data set: its task, shape and statistics."""
    config: TrainConfig
    device: torch.device
    seed: int
    """Seed of the order of samples, of augmentation and of the network's random numbers."""

    def augmentation(self) -> Augmentation:
        config = self.config
        return Augmentation(self.data, self.seed, config.augment, config.mixup, config.cutmix)
