"""A training as data, to hand to another process."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from torchmill.components.data.reading import read_training
from torchmill.components.initialization.weights import restore
from torchmill.components.refs import DataRef, NetworkRef, Ref
from torchmill.components.training.checkpoint import Checkpoints
from torchmill.components.training.config import TrainConfig
from torchmill.components.training.device import resolve
from torchmill.components.training.distributed.process_group import SINGLE_PROCESS, ProcessGroup
from torchmill.components.training.fit import fit
from torchmill.components.training.progress import EpochResult, StepProgress
from torchmill.components.training.setup import TrainingSetup


class Job(Ref):
    """Network, data, settings and files of one training."""

    network: NetworkRef
    data: DataRef
    config: TrainConfig
    device: str
    seed: int
    checkpoints: Path
    """Folder of the checkpoints."""
    best: Path
    """File of the best weights. A profile is written into the same folder."""
    threads: int | None = None
    """CPU threads of each process; None leaves the number to torch."""

    def open_checkpoints(self) -> Checkpoints:
        return Checkpoints(self.checkpoints, self.config.checkpoint_seconds)


def train(
    job: Job,
    checkpoint: dict[str, Any] | None,
    on_progress: Callable[[StepProgress], None] = lambda _: None,
    should_stop: Callable[[], bool] = lambda: False,
    process_group: ProcessGroup = SINGLE_PROCESS,
    after_step: Callable[[], object] | None = None,
) -> Iterator[EpochResult]:
    """Run a job in this process, as ``fit`` does.

    Args:
        checkpoint: the job's newest checkpoint, modified by the training.
        after_step: called after each step.
    """

    def stop() -> bool:  # called after each step
        if after_step:
            after_step()
        return should_stop()

    network = restore(job.network, job.network.weights, job.data)
    device = local_device(job.device, process_group)
    yield from fit(
        TrainingSetup(network, *read_training(job.data), job.data, job.config, device, job.seed),
        *(job.open_checkpoints(), job.best),
        resume_from=checkpoint,
        on_progress=on_progress,
        should_stop=stop,
        process_group=process_group,
    )


def local_device(name: str, process_group: ProcessGroup) -> torch.device:
    """Return this process's device: with several graphics cards, each process has its own."""
    device = resolve(name)
    several = device.type != "cpu" and process_group.world_size > 1 and device.index is None
    return torch.device(device.type, process_group.local_rank) if several else device
