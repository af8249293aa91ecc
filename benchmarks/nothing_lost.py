"""Cost of losing nothing, in step keys, checkpoints and the journal, and the time that a cached result saves.

- recorded fit: `fit` on 54,000 images as the step runs it: with its key, lock and checkpoints, metrics in the journal,
  and a recorder process that sends them to MLflow. Images per second of wall time, with validation.
- the same while MLflow's server hangs: stopped by SIGSTOP, it accepts connections and never answers.
- bare loop: the same mathematics with validation, and nothing else.
- nothing changed: seconds of `torchmill train` if every result is cached, against the first run.
"""

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator
from pathlib import Path
from unittest.mock import patch

import numpy as np
import torch
from torch.nn.functional import cross_entropy

from benchmarks.measure import Claim, in_turn
from benchmarks.throughput import BATCH, DATA, bare_epochs, images, network
from benchmarks.whole_run import seconds
from torchmill.components import tracking
from torchmill.components.data.config import DataConfig
from torchmill.components.data.samples import Samples
from torchmill.components.local_access.key import credentials
from torchmill.components.processes import processors
from torchmill.components.refs import RunRef
from torchmill.components.runs import fingerprint
from torchmill.components.runs.folders import Runs
from torchmill.components.runs.step_cache import StepCache
from torchmill.components.training.checkpoint import Checkpoints
from torchmill.components.training.config import TrainConfig
from torchmill.components.training.fit import fit
from torchmill.components.training.setup import TrainingSetup
from torchmill.flows.services.processes import answers, free_port

# MNIST's 60,000 images, a tenth of them for validation.
EPOCHS, ROUNDS, IMAGES, VALIDATION = 2, 5, 54_000, 6_000


def measure() -> list[Claim]:
    torch.set_num_threads(processors())
    rng = np.random.default_rng(0)
    pixels = torch.from_numpy(rng.integers(0, 256, (IMAGES + VALIDATION, 1, 28, 28), dtype=np.uint8))
    labels = torch.from_numpy(rng.integers(0, 10, IMAGES + VALIDATION))
    training = Samples(pixels[:IMAGES], labels[:IMAGES])
    validation = Samples(pixels[IMAGES:], labels[IMAGES:])
    with tempfile.TemporaryDirectory() as folder:
        with recorded(Path(folder) / "well", hangs=False) as well, recorded(Path(folder) / "ill", hangs=True) as ill:
            figures = in_turn(
                {
                    "recorded fit": lambda: recorded_fit(well, training, validation),
                    "MLflow hanging": lambda: recorded_fit(ill, training, validation),
                    "bare loop": lambda: bare_fit(training, validation),
                },
                ROUNDS,
            )
        again, first = repeated(Path(folder))
    return [
        Claim("recorded fit", "bare loop", figures["recorded fit"], figures["bare loop"], "images/s", "≥ 0.98", NOTE),
        Claim(
            *("recorded fit", "bare loop, while MLflow hangs"),
            *(figures["MLflow hanging"], figures["bare loop"], "images/s", "≥ 0.98"),
        ),
        Claim("torchmill train, nothing changed", "the first time", again, first, "s", "≤ 0.25"),
    ]


NOTE = (
    "A hanging MLflow server makes no difference. The rest of the gap is fit's own, as in Throughput, and the "
    "recorder's share of two busy processors."
)


@contextlib.contextmanager
def recorded(folder: Path, hangs: bool) -> Generator[RunRef]:
    """Open a run on a new MLflow server, which then answers or hangs."""
    runs = Runs(folder).ready()
    tracking.create_database(runs)
    port = free_port()
    server = subprocess.Popen(
        tracking.ui_command(runs, port),
        env=tracking.ui_environment(runs),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    address = f"http://127.0.0.1:{port}"
    try:
        while not answers(f"{address}/health"):
            time.sleep(0.1)
        folder = runs.work / "run"
        folder.mkdir()
        user, _, password = credentials(runs).partition(":")
        key = {"MLFLOW_TRACKING_USERNAME": user, "MLFLOW_TRACKING_PASSWORD": password}
        with patch.dict(os.environ, {"MLFLOW_TRACKING_URI": address, **key}):
            run = tracking.open_run(runs, folder, experiment="noise", name="run", params={}, tags={}, ui="")
        if hangs:
            os.killpg(server.pid, signal.SIGSTOP)
        yield run
        if hangs:
            os.killpg(server.pid, signal.SIGCONT)
        tracking.end_run(run, "FINISHED")
    finally:
        os.killpg(server.pid, signal.SIGKILL)
        server.wait()


steps_taken = 0


def recorded_fit(run: RunRef, training: Samples, validation: Samples) -> float:
    global steps_taken
    steps_taken += 1
    model = network()
    started = time.perf_counter()
    config = TrainConfig(epochs=EPOCHS, batch_size=BATCH)
    decided = fingerprint.of_step("fit", {"config": config, "split": DataConfig(), "seed": steps_taken, "data": DATA})
    results = StepCache(Runs(run.folder.parent.parent))
    with results.lock("fit", decided.key):
        folder = results.folder("fit", decided.key)
        checkpoints, best = (
            Checkpoints(folder / "checkpoints", config.checkpoint_seconds),
            run.folder / "best.safetensors",
        )
        epochs = fit(
            TrainingSetup(model, training, validation, DATA, config, torch.device("cpu"), 0), checkpoints, best
        )
        for epoch in epochs:
            tracking.log_metrics(run, epoch.metrics(), EPOCHS * steps_taken + epoch.epoch)
    return EPOCHS * IMAGES / (time.perf_counter() - started)


def bare_fit(training: Samples, validation: Samples) -> float:
    untrained = network()
    started = time.perf_counter()
    for model in bare_epochs(untrained, training, EPOCHS):
        model.eval()
        with torch.no_grad():
            for pixels, labels in validation.batches(256):
                cross_entropy(model(images(pixels)), labels, reduction="sum").item()
        model.train()
    return EPOCHS * IMAGES / (time.perf_counter() - started)


def repeated(folder: Path) -> tuple[list[float], list[float]]:
    """Return the seconds of a command whose results are cached, and of the first one; each pair uses a new folder."""
    environment = os.environ | {"TORCHMILL_DATA": f"{folder}/data", "MLFLOW_DISABLE_TELEMETRY": "true"}
    again, first = [], []
    for turn in range(4):
        command = [sys.executable, "-m", "torchmill.flows.cli.main", "train", "--runs", f"{folder}/turn-{turn}"]
        pair = seconds(command, environment, settle=4), seconds(command, environment)
        print(f"{'warm-up' if turn == 0 else f'round {turn}'}  first {pair[0]:.1f}, again {pair[1]:.2f}", flush=True)
        if turn:  # the warm-up also prepares the data
            first.append(pair[0])
            again.append(pair[1])
    return again, first
