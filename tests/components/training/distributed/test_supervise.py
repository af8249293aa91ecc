"""Several processes that train together get the same weights as one, even if some are killed or stopped."""

import logging
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from tests.components.training.small_training import CPU
from tests.toy import made, toy_data
from torchmill.components.errors import UserError
from torchmill.components.initialization.weights import save_weights
from torchmill.components.refs import DataRef, NetworkRef
from torchmill.components.training.config import TrainConfig
from torchmill.components.training.distributed.fsdp import blocks
from torchmill.components.training.distributed.job import Job, train
from torchmill.components.training.distributed.launch import RESTARTS, WORKER, started_ahead
from torchmill.components.training.distributed.supervise import join, processes_for, train_in_subprocess
from torchmill.components.training.fit import Stopped
from torchmill.components.training.progress import EpochResult

pytestmark = pytest.mark.services


DOUBLE = """
from torch import nn

class Double(nn.Module):
    def __init__(self):
        super().__init__()
        self.body, self.out = nn.Linear(784, 24), nn.Linear(24, 10)
        self.double()

    def forward(self, x):
        return self.out(self.body(x.flatten(1).double()).relu())
"""
ROUNDING = 1e-9
"""Largest difference between float64 weights whose gradients were summed in another order. In float32 it has no useful
bound, because rmsprop divides by rounded values."""

LOSS_ROUNDING = 1e-6
"""Largest relative difference between losses, which are means over samples in float32."""


def job(data: DataRef, folder: Path, **config: object) -> Job:
    """Return a job whose network draws no random numbers and computes in float64."""
    folder.mkdir()
    (folder / "double.py").write_text(DOUBLE)
    reference = f"{folder}/double.py:Double"
    weights = save_weights(made(reference, data), folder / "initial.safetensors")
    settings = {
        "batch_size": 50,
        "epochs": 2,
        "lr": 3e-3,
        "processes": 2,
        **config,
    }  # 480 samples: the last batch is 30
    return Job(
        network=NetworkRef(reference=reference, arguments={}, weights=weights, parameters=1),
        data=data.with_split(0.2, seed=0),
        config=TrainConfig.model_validate(settings),
        device="cpu",
        seed=0,
        checkpoints=folder / "checkpoints",
        best=folder / "best.safetensors",
    )


def job_of(reference: str, data: DataRef, folder: Path, **config: object) -> Job:
    """Return a job for another network."""
    weights = save_weights(made(reference, data), folder / "initial.safetensors")
    network = NetworkRef(reference=reference, arguments={}, weights=weights, parameters=1)
    return job(data, folder / "job", **config).model_copy(update={"network": network})


def weights(job: Job) -> dict[str, torch.Tensor]:
    return load_file(job.best)


def largest_difference(one: Job, other: Job) -> float:
    first, second = weights(one), weights(other)
    assert first.keys() == second.keys()
    return max((first[name] - second[name]).abs().max().item() for name in first)


def test_two_processes_give_the_weights_and_losses_of_one(toy, tmp_path):
    alone, together = (job(toy, tmp_path / name, clip="norm:1", ema=0.9) for name in ("alone", "together"))
    expected = list(train(alone, None))
    given = list(train_in_subprocess(together, 2))
    assert largest_difference(alone, together) < ROUNDING
    for one, other in zip(expected, given, strict=True):
        assert (one.train_loss, one.validation_loss) == pytest.approx(
            (other.train_loss, other.validation_loss), rel=LOSS_ROUNDING
        )
        assert (one.train_score, one.validation_score) == (other.train_score, other.validation_score)


SPLIT = """
from torch import nn

class Split(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Linear(784, 32)
        self.body = nn.Sequential(nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 32, bias=False), nn.BatchNorm1d(32))
        self.out = nn.Linear(32, 10)
        self.double()

    def forward(self, x):
        if self.training and len(x) > 2:
            for layer in (self.body[0], self.body[2]):
                assert layer.weight.to_local().shape == (16, 32)  # sharded until the layer runs
        return self.out(self.body(self.embed(x.flatten(1).double())))
"""


def sharded_job(data: DataRef, folder: Path, **config: object) -> Job:
    """Return a job whose network fails unless it is sharded, with every setting that sharding supports."""
    folder.mkdir()
    (folder / "split.py").write_text(SPLIT)
    return job_of(f"{folder}/split.py:Split", data, folder, **{"shard": "on", "clip": "norm:1", "ema": 0.9, **config})


def unsharded(job: Job) -> Job:
    """Return the same job without sharding, for a network that doesn't check it."""
    path = Path(job.network.reference.rpartition(":")[0])
    path.write_text(path.read_text().replace("if self.training", "if False"))
    return job.model_copy(update={"config": job.config.model_copy(update={"shard": "off"})})


@pytest.mark.parametrize(
    "clip", [*(pytest.param(name, marks=pytest.mark.slow) for name in ("none", "norm:1")), "agc:0.1"]
)
@pytest.mark.parametrize(
    "optimizer", [*(pytest.param(name, marks=pytest.mark.slow) for name in ("sgd", "rmsprop", "adadelta")), "adamw"]
)
def test_a_sharded_network_trains_like_an_unsharded_one(tmp_path, optimizer: str, clip: str):
    data = toy_data(tmp_path, train=2565)  # 513 for validation: two shares, with different numbers of batches of 256
    plain = {"optimizer": optimizer, "lr": 1.0 if optimizer == "adadelta" else 3e-3, "clip": clip}
    split, whole = (sharded_job(data, tmp_path / name, **plain) for name in ("split", "whole"))
    given = list(train_in_subprocess(split, 2))
    expected = list(train_in_subprocess(unsharded(whole), 2))
    assert largest_difference(split, whole) < ROUNDING
    for one, other in zip(expected, given, strict=True):
        assert (one.train_loss, one.validation_loss) == pytest.approx(
            (other.train_loss, other.validation_loss), rel=LOSS_ROUNDING
        )


@pytest.mark.slow
def test_a_sharded_training_resumes_bit_for_bit_from_full_checkpoints(toy, tmp_path):
    whole, stopped = (sharded_job(toy, tmp_path / name, epochs=30) for name in ("whole", "stopped"))
    expected = list(train_in_subprocess(whole, 2))
    asked = threading.Event()
    with pytest.raises(Stopped):
        after_epochs(train_in_subprocess(stopped, 2, should_stop=asked.is_set), 2, asked.set)
    shutil.copytree(stopped.checkpoints, tmp_path / "kept")
    given = list(train_in_subprocess(stopped, 2))
    assert [epoch.train_loss for epoch in given] == [epoch.train_loss for epoch in expected]
    assert stopped.best.read_bytes() == whole.best.read_bytes()
    unsplit = unsharded(stopped).model_copy(
        update={"checkpoints": tmp_path / "kept", "best": tmp_path / "unsplit.safetensors"}
    )
    assert len(list(train_in_subprocess(unsplit, 2))) == 30
    assert largest_difference(unsplit, whole) < ROUNDING


@pytest.mark.slow
def test_a_sharded_network_that_becomes_infinite_is_reported_without_a_layer(toy, tmp_path):
    asked = sharded_job(toy, tmp_path / "job", clip="none", lr=1000, optimizer="sgd", schedule="constant", epochs=50)
    with pytest.raises(UserError, match=r"became (inf|nan) in epoch 1, step \d+: the network is sharded"):
        list(train_in_subprocess(asked, 2))


def test_blocks_are_large_layers_called_by_themselves():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed, self.out = nn.Embedding(8, 16), nn.Linear(16, 8, bias=False)
            self.out.weight = self.embed.weight
            self.layers = nn.ModuleList([nn.Sequential(nn.Linear(16, 16), nn.ReLU()), nn.LayerNorm(16), self.embed])

    tied = Tied()
    assert blocks(tied) == [tied.layers[0], tied.layers[1]]


def workers() -> list[psutil.Process]:
    processes = []
    for process in psutil.Process().children(recursive=True):
        try:
            words = process.cmdline()
        except (psutil.NoSuchProcess, psutil.ZombieProcess):
            continue
        if "torchmill.components.training.distributed" in words and "torch.distributed.run" not in words:
            processes.append(process)
    return processes


def after_epochs(epochs: Iterator[EpochResult], count: int, act: Callable[[], object]) -> list[EpochResult]:
    seen = []
    for epoch in epochs:
        seen.append(epoch)
        if len(seen) == count:
            act()
    return seen


@pytest.mark.slow
def test_a_killed_worker_costs_some_steps_and_changes_nothing(toy, tmp_path):
    whole, broken = (
        job(toy, tmp_path / name, epochs=20, checkpoint_seconds=0, augment="shift") for name in ("whole", "broken")
    )
    expected = list(train_in_subprocess(whole, 2))
    killed = []

    def kill() -> None:
        victim = workers()[-1]
        killed.append(victim.pid)
        victim.kill()

    given = after_epochs(train_in_subprocess(broken, 2), 2, kill)
    assert killed and [epoch.epoch for epoch in given] == list(range(1, 21))
    assert [epoch.train_loss for epoch in given] == [epoch.train_loss for epoch in expected]
    assert broken.best.read_bytes() == whole.best.read_bytes()


DYING = """
import os
from torch import nn

class Dying(nn.Module):
    def __init__(self):
        super().__init__()
        self.out = nn.Linear(784, 10)

    def forward(self, x):
        if self.training and os.environ.get("RANK") == "1" and len(x) > 2:
            os.kill(os.getpid(), 9)
        return self.out(x.flatten(1))
"""


@pytest.mark.slow
def test_a_worker_that_dies_repeatedly_is_reported(toy, tmp_path):
    (tmp_path / "dying.py").write_text(DYING)
    asked = job_of(f"{tmp_path}/dying.py:Dying", toy, tmp_path)
    with pytest.raises(UserError, match=f"One of 2 training processes died, {RESTARTS + 1} times: .*-9"):
        list(train_in_subprocess(asked, 2))
    assert not workers()


@pytest.mark.slow
def test_a_users_error_is_raised_once_with_its_remedy(toy, tmp_path):
    with pytest.raises(UserError, match=r"The loss became (inf|nan) in epoch 1, step \d+: .*Try a smaller --train.lr"):
        # In float32, where such steps overflow soon.
        settings = {"lr": 1000, "optimizer": "sgd", "schedule": "constant", "epochs": 50}
        list(train_in_subprocess(job_of("mlp", toy, tmp_path, **settings), 2))
    assert not workers()


@pytest.mark.slow
def test_a_stopped_training_leaves_a_checkpoint_and_resumes_bit_for_bit(toy, tmp_path):
    whole, stopped = (job(toy, tmp_path / name, epochs=40) for name in ("whole", "stopped"))
    expected = list(train_in_subprocess(whole, 2))
    asked = threading.Event()
    with pytest.raises(Stopped):
        after_epochs(train_in_subprocess(stopped, 2, should_stop=asked.is_set), 2, asked.set)
    state = stopped.open_checkpoints().newest()
    assert state and 1 < state["epoch"] < 40 and not workers()
    given = list(train_in_subprocess(stopped, 2))
    assert [epoch.epoch for epoch in given] == list(range(1, 41))
    assert [epoch.train_loss for epoch in given] == [epoch.train_loss for epoch in expected]
    assert stopped.best.read_bytes() == whole.best.read_bytes()


@pytest.mark.slow
def test_workers_exit_when_their_parent_is_killed(toy, tmp_path):
    asked = job(toy, tmp_path / "job", epochs=100_000)
    (tmp_path / "job.json").write_text(asked.model_dump_json())
    code = (
        "import sys\nfrom pathlib import Path\nfrom torchmill.components.training.distributed.job import Job\n"
        "from torchmill.components.training.distributed.supervise import train_in_subprocess\n"
        f"job = Job.model_validate_json(Path({str(tmp_path / 'job.json')!r}).read_bytes())\n"
        "for epoch in train_in_subprocess(job, 2):\n    print('epoch', flush=True)\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert parent.stdout and parent.stdout.readline() == "epoch\n"
    family = psutil.Process(parent.pid).children(recursive=True)
    assert len(family) >= 3
    parent.kill()
    parent.wait()
    parent.stdout.close()
    _, left = psutil.wait_procs(family, timeout=20)
    assert not left


def test_a_worker_whose_parent_has_died_ends_before_it_has_imported_torch(tmp_path):
    """Nobody holds the lock of its folder. On a busy machine the imports take half a minute."""
    command = [sys.executable, "-P", "-X", "importtime", *WORKER, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert "distributed.parent_watch" in done.stderr and "torch._dynamo" not in done.stderr


ALONE = """
import os
from torch import nn

class Alone(nn.Module):
    def __init__(self):
        super().__init__()
        self.out = nn.Linear(784, 10)

    def forward(self, x):
        if self.training and len(x) == 50:
            END
        return self.out(x.flatten(1))
"""


def ended(toy: DataRef, folder: Path, how: str) -> Job:
    """Return a job whose network runs the statement ``how`` in training."""
    (folder / "alone.py").write_text(ALONE.replace("END", how))
    return job_of(f"{folder}/alone.py:Alone", toy, folder, processes=1, checkpoint_seconds=0)


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ("os.kill(os.getpid(), 9)", "ended by SIGKILL, which the system sends when memory runs out"),
        pytest.param(
            *("os.abort()", "ended by SIGABRT, by which native code gives up, for example if it gets no memory"),
            marks=pytest.mark.slow,
        ),
        pytest.param("os.kill(os.getpid(), 11)", "ended by SIGSEGV, a crash in native code", marks=pytest.mark.slow),
        pytest.param("os._exit(7)", "ended by itself, with exit code 7", marks=pytest.mark.slow),
    ],
)
def test_a_crash_ends_the_worker_and_not_its_parent(toy, tmp_path, how: str, words: str):
    with pytest.raises(UserError, match=f"{words}.* resumes from the last checkpoint"):
        list(train_in_subprocess(ended(toy, tmp_path, how)))
    assert not workers()


def test_an_error_of_the_network_comes_with_its_place_and_traceback(toy, tmp_path):
    with pytest.raises(RuntimeError, match=r"ValueError: no such thing \(alone.py line 12\)") as raised:
        list(train_in_subprocess(ended(toy, tmp_path, "raise ValueError('no such thing')")))
    (note,) = raised.value.__notes__
    assert "alone.py" in note and "ValueError: no such thing" in note


def test_a_worker_gives_the_same_bytes_as_this_process(toy, tmp_path):
    here, apart = (job(toy, tmp_path / name, processes=1, augment="shift") for name in ("here", "apart"))
    expected = list(train(here, None))
    with started_ahead(apart.config):
        given = list(train_in_subprocess(apart))
    assert [epoch.train_loss for epoch in given] == [epoch.train_loss for epoch in expected]
    assert apart.best.read_bytes() == here.best.read_bytes()


def test_a_worker_finds_the_modules_that_its_parent_finds(toy, tmp_path, monkeypatch):
    (tmp_path / "only_here.py").write_text(ALONE.replace("END", "pass"))
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "components").mkdir()  # is not ours
    (tmp_path / "elsewhere" / "components" / "__init__.py").touch()
    asked = job_of("only_here:Alone", toy, tmp_path, processes=1)
    assert len(list(train_in_subprocess(asked))) == 2


@pytest.mark.slow
def test_two_machines_give_what_two_processes_give(toy, tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        meeting = f"127.0.0.1:{free.getsockname()[1]}"
    together = job(toy, tmp_path / "together", clip="norm:1")
    machines = job(toy, tmp_path / "machines", clip="norm:1", processes=1, machines=2, rendezvous=meeting)
    expected = list(train_in_subprocess(together, 2))
    others: list[threading.Thread] = []

    class Told(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            place = record.getMessage().partition("torchmill join ")[2]
            if place:
                others.append(threading.Thread(target=join, args=(Path(place),)))
                others[0].start()

    logger = logging.getLogger("torchmill")
    before, handler = logger.level, Told()
    logger.setLevel(logging.INFO)
    logger.addHandler(handler)
    try:
        given = list(train_in_subprocess(machines, 1))
    finally:
        logger.removeHandler(handler)
        logger.setLevel(before)
    others[0].join(30)
    assert not others[0].is_alive()
    expected_losses = [epoch.train_loss for epoch in expected]
    assert [epoch.train_loss for epoch in given] == pytest.approx(expected_losses, rel=LOSS_ROUNDING)
    assert largest_difference(machines, together) < ROUNDING  # the numbers of threads differ


def test_joining_a_folder_without_a_training_is_refused(tmp_path):
    with pytest.raises(UserError, match="is no training that waits for machines"):
        join(tmp_path)


def test_the_number_of_processes():
    assert processes_for(TrainConfig(), CPU) == processes_for(TrainConfig(processes="auto"), CPU) == 1
    assert processes_for(TrainConfig(processes=3), CPU) == 3
    with pytest.raises(UserError, match="batch_size 7 leaves less than 2 samples for each of 4 processes"):
        processes_for(TrainConfig(processes=4, batch_size=7), CPU)
