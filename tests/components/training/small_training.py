"""A network ten times as fast as SimpleCNN, and its training on the toy data."""

import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from torchmill.components.data.samples import Samples, read_training
from torchmill.components.refs import DataRef
from torchmill.components.training.checkpoint import Checkpoints
from torchmill.components.training.config import TrainConfig
from torchmill.components.training.fit import fit
from torchmill.components.training.progress import EpochResult, StepProgress
from torchmill.components.training.setup import TrainingSetup

CPU = torch.device("cpu")
STEPS = 15
"""Steps of an epoch: 480 of the toy data's 612 images, in batches of 32."""


class Small(nn.Module):
    """Convolution, batch norm and dropout."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm, self.drop = nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Dropout(0.3)
        self.out = nn.Linear(4 * 26 * 26, 10)

    def forward(self, x):
        return self.out(self.drop(self.norm(self.conv(x)).relu().flatten(1)))


class Plain(nn.Module):
    """No batch norm and no dropout: a sample's gradient depends on no other sample and on no random number."""

    def __init__(self):
        super().__init__()
        self.hidden, self.out = nn.Linear(784, 24), nn.Linear(24, 10)

    def forward(self, x):
        return self.out(self.hidden(x.flatten(1)).relu())


def make(kind: Callable[[], nn.Module] = Small, seed: int = 0) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return kind()


def checkpoints_in(folder: Path) -> Checkpoints:
    return Checkpoints(folder / "checkpoints", 30)


def newest(folder: Path) -> dict[str, Any] | None:
    return checkpoints_in(folder).newest()


def train(
    network: nn.Module,
    data: DataRef,
    folder: Path,
    *,
    seed: int = 0,
    splits: tuple[Samples, Samples] | None = None,
    device: torch.device = CPU,
    resume: bool = False,
    on_progress: Callable[[StepProgress], None] = lambda _: None,
    should_stop: Callable[[], bool] = lambda: False,
    **config: object,
) -> Iterator[EpochResult]:
    """Train and yield each epoch's result.

    Args:
        resume: go on from the newest checkpoint in ``folder``.
    """
    training, validation = splits or read_training(data.with_split(0.2, seed=0))
    settings = TrainConfig.model_validate({"batch_size": 32, "epochs": 1, "lr": 3e-3, **config})
    checkpoints = Checkpoints(folder / "checkpoints", settings.checkpoint_seconds)
    return fit(
        TrainingSetup(network, training, validation, data, settings, device, seed),
        *(checkpoints, folder / "best.safetensors"),
        resume_from=checkpoints.newest() if resume else None,
        on_progress=on_progress,
        should_stop=should_stop,
    )


def senseless(data: DataRef) -> tuple[Samples, Samples]:
    """Return two batches of images with random labels: a network can only memorize them."""
    training, validation = read_training(data.with_split(0.2, seed=0))
    noise = np.random.default_rng(0).integers(0, 10, 64)
    return Samples(training.inputs[:64], torch.from_numpy(noise)), validation


def stop_after(steps: float) -> Callable[[], bool]:
    """Return a ``should_stop`` that is True from its call number ``steps`` on.

    ``fit`` calls it after each step and at the end of each epoch.
    """
    remaining = steps

    def stop() -> bool:
        nonlocal remaining
        remaining -= 1
        return remaining <= 0

    return stop if steps < math.inf else lambda: False


def state(network: nn.Module) -> dict[str, bytes]:
    return {name: tensor.detach().numpy().tobytes() for name, tensor in network.state_dict().items()}
