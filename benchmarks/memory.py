"""Peak memory of a process that trains SimpleCNN on 60,000 images, as many as MNIST has, against a bare loop's.

Both processes import the same modules and hold the same uint8 pixels. `python -m benchmarks.memory ours` runs one.
"""

import resource
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch

from benchmarks.measure import Claim, in_turn
from benchmarks.throughput import BATCH, DATA, bare_epochs, network
from torchmill.components.data.samples import Samples
from torchmill.components.training.checkpoint import Checkpoints
from torchmill.components.training.config import TrainConfig
from torchmill.components.training.fit import fit
from torchmill.components.training.setup import TrainingSetup

IMAGES, ROUNDS = 60_000, 3
MEBIBYTE = 1024  # in kibibytes, the unit of ru_maxrss


def measure() -> list[Claim]:
    def peak(which: str) -> float:
        done = subprocess.run([sys.executable, "-m", "benchmarks.memory", which], capture_output=True, text=True)
        return float(done.stdout)

    figures = in_turn({"ours": lambda: peak("ours"), "bare loop": lambda: peak("bare")}, ROUNDS)
    return [
        Claim("peak memory of fit, MNIST's size", "bare loop", figures["ours"], figures["bare loop"], "MiB", "≤ 1.15")
    ]


def main(which: str) -> None:
    rng = np.random.default_rng(0)
    pixels = torch.from_numpy(rng.integers(0, 256, (IMAGES, 1, 28, 28), dtype=np.uint8))
    training = Samples(pixels, torch.from_numpy(rng.integers(0, 10, IMAGES)))
    if which == "bare":
        for _ in bare_epochs(network(), training, 1):
            pass
    else:
        few = Samples(pixels[:256], training.labels[:256])
        with tempfile.TemporaryDirectory() as place:
            checkpoints, best = Checkpoints(Path(place) / "checkpoints", 30), Path(place) / "best.safetensors"
            config = TrainConfig(epochs=1, batch_size=BATCH)
            list(fit(TrainingSetup(network(), training, few, DATA, config, torch.device("cpu"), 0), checkpoints, best))
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / MEBIBYTE)


if __name__ == "__main__":
    main(sys.argv[1])
