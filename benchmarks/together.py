"""Images/s of two processes on two processors against one process with one thread: SimpleCNN on noise.

Both take the same batches of 256 and the same steps, and their losses are compared. The figure is that of the second of
two epochs, which has no start-up in it.
"""

import tempfile
from pathlib import Path

import numpy as np
import torch

from benchmarks.measure import Claim, in_turn
from benchmarks.throughput import DATA
from torchmill.components.initialization.build import initialize
from torchmill.components.initialization.config import InitializeConfig, ModelConfig
from torchmill.components.initialization.weights import save_weights
from torchmill.components.processes import processors
from torchmill.components.refs import DataRef, NetworkRef
from torchmill.components.training.config import TrainConfig
from torchmill.components.training.distributed.job import Job, train
from torchmill.components.training.distributed.supervise import train_in_subprocess
from torchmill.components.training.progress import EpochResult

IMAGES, ROUNDS = 25_600, 3


def measure() -> list[Claim]:
    if processors() < 2:
        print("This machine has only one processor: skipped")
        return []
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        data = noise(folder / "data")
        losses: dict[str, list[float]] = {}

        def alone() -> float:
            threads = torch.get_num_threads()
            torch.set_num_threads(1)
            try:
                return record("alone", list(train(job(data, folder), None)))
            finally:
                torch.set_num_threads(threads)

        def together() -> float:
            return record("together", list(train_in_subprocess(job(data, folder), 2)))

        def record(name: str, epochs: list[EpochResult]) -> float:
            losses[name] = [epoch.train_loss for epoch in epochs]
            return epochs[-1].samples_per_second

        figures = in_turn({"2 processes": together, "1 process, 1 thread": alone}, ROUNDS)
    pairs = zip(losses["together"], losses["alone"], strict=True)
    difference = max(abs(together / alone - 1) for together, alone in pairs)
    note = f"The epochs' losses differ by {difference:.1e} of their size."
    both = figures["2 processes"], figures["1 process, 1 thread"]
    return [Claim("fit", "by 2 processes on 2 processors, 1 process with 1 thread", *both, "images/s", "≥ 1.6", note)]


def noise(folder: Path) -> DataRef:
    folder.mkdir()
    rng = np.random.default_rng(0)
    for split, count in (("train", IMAGES), ("validation", 500), ("test", 10)):
        np.save(folder / f"{split}_inputs.npy", rng.integers(0, 256, (count, 1, 28, 28), dtype=np.uint8))
        np.save(folder / f"{split}_labels.npy", rng.integers(0, 10, count))
    sizes = {"train_size": IMAGES, "validation_size": 500, "test_size": 10}
    return DATA.model_copy(update={"folder": folder, **sizes})


def job(data: DataRef, folder: Path) -> Job:
    """Return a new job without a checkpoint."""
    job_folder = Path(tempfile.mkdtemp(dir=folder))
    network, _ = initialize(ModelConfig(), InitializeConfig(), data, 0)
    weights = save_weights(network, job_folder / "initial.safetensors")
    return Job(
        network=NetworkRef(reference="simple_cnn", arguments={}, weights=weights, parameters=421_642),
        data=data,
        config=TrainConfig(epochs=2, batch_size=256),
        device="cpu",
        seed=0,
        checkpoints=job_folder / "checkpoints",
        best=job_folder / "best.safetensors",
    )
