"""A training as one thing, which another process can be asked for."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from torchmill.components.data.samples import read_training
from torchmill.components.initialization.weights import restore
from torchmill.components.refs import DataRef, NetworkRef, Ref
from torchmill.components.training.checkpoint import Checkpoints
from torchmill.components.training.config import TrainConfig
from torchmill.components.training.device import resolve
from torchmill.components.training.distributed.process_group import ALONE, ProcessGroup
from torchmill.components.training.fit import fit
from torchmill.components.training.progress import EpochResult, StepProgress
from torchmill.components.training.setup import TrainingSetup


class Job(Ref):
    """What is to be trained, on what, how, and where it is kept."""

    network: NetworkRef
    data: DataRef
    config: TrainConfig
    device: str
    seed: int
    checkpoints: Path
    """Their folder."""
    best: Path
    """File of the best weights; beside it comes what a profile gives."""
    threads: int | None = None
    """Of the processor, for each process; none leaves it to torch."""

    def kept(self) -> Checkpoints:
        return Checkpoints(self.checkpoints, self.config.checkpoint_seconds)


def train(
    job: Job,
    found: dict[str, Any] | None,
    on_progress: Callable[[StepProgress], None] = lambda _: None,
    should_stop: Callable[[], bool] = lambda: False,
    process_group: ProcessGroup = ALONE,
    after_step: Callable[[], object] | None = None,
) -> Iterator[EpochResult]:
    """Do a job in this process; as ``fit``.

    Args:
        found: the newest of its checkpoints, which is used up.
        after_step: called behind each.
    """

    def stop() -> bool:  # which is asked behind each step
        if after_step:
            after_step()
        return should_stop()

    network = restore(job.network, job.network.weights, job.data)
    device = own_device(job.device, process_group)
    yield from fit(
        TrainingSetup(network, *read_training(job.data), job.data, job.config, device, job.seed),
        *(job.kept(), job.best),
        resume_from=found,
        on_progress=on_progress,
        should_stop=stop,
        process_group=process_group,
    )


def own_device(name: str, process_group: ProcessGroup) -> torch.device:
    """The device of this process: of several cards each has its own."""
    chosen = resolve(name)
    several = chosen.type != "cpu" and process_group.size > 1 and chosen.index is None
    return torch.device(chosen.type, process_group.local_rank) if several else chosen
