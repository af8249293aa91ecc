"""A command in a fork of the prewarmed process looks to its caller like one in a process of its own."""

import json
import os
import signal
import subprocess
import time
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from tests.flows.conftest import Finished, Place, Quick

pytestmark = pytest.mark.services


def serving(prewarm: str) -> psutil.Process:
    """The process that listens there."""
    words = (process for process in psutil.process_iter() if _is_at(process, prewarm))
    return next(iter(sorted(words, key=lambda process: process.create_time())))


def _is_at(process: psutil.Process, prewarm: str) -> bool:
    with suppress(psutil.NoSuchProcess, psutil.AccessDenied, psutil.ZombieProcess):
        return prewarm in process.cmdline()
    return False


def forks_for(place: Place, serves: psutil.Process) -> list[psutil.Process]:
    """The prewarmed process's forks that serve commands in a place, and all that these have started."""
    forks = []
    for fork in serves.children():
        with suppress(psutil.NoSuchProcess):
            family = [fork, *fork.children(recursive=True)]
            if any(process.cwd() == str(place.folder) for process in family):
                forks += family
    return forks


def start_and_wait_for_training(place: Place, *more: str) -> subprocess.Popen[str]:
    process = place.start("train", "--train.epochs", "5000", *more, start_new_session=True)
    assert process.stderr and any("epoch 1/" in line for line in process.stderr)
    return process


def test_it_gives_what_a_command_by_itself_gives(copied: Place, finished: Finished, quick: Quick):
    place = quick(copied)
    before = os.times()
    done = place.torchmill("train", "--json", "--train.epochs", "3", "--fresh")
    own = os.times()
    assert done.returncode == 0, done.stderr
    # Of the command's own process: torch alone would take it 3 s.
    assert own.children_user - before.children_user < 2
    assert done.stdout.count("\n") == 1 and "epoch 3/3" in done.stderr
    result = json.loads(done.stdout)
    assert result["weights"]["sha256"] == finished.result["weights"]["sha256"]
    assert result["onnx"]["sha256"] == finished.result["onnx"]["sha256"]
    assert Path(result["report"]).is_relative_to(place.runs)
    words = "SELECT value FROM tags WHERE key = 'mlflow.source.name' ORDER BY value"
    assert {value for (value,) in place.mlflow(words)} == {
        f"torchmill train --json --train.epochs 3 {more}" for more in ("--fresh", "--name first one")
    }
    other = place.torchmill("train", "--train.epochs", "three")
    assert other.returncode == 2 and "train.epochs" in other.stderr and len(other.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("sent", "code"),
    [
        pytest.param(signal.SIGINT, 130, marks=pytest.mark.slow),  # in a process of its own: test_ends
        (signal.SIGTERM, 143),
    ],
)
def test_signals_come_through_and_the_run_goes_on_later(shared: Place, sent: signal.Signals, code: int):
    process = start_and_wait_for_training(shared)
    os.kill(process.pid, sent)
    _, err = process.communicate(timeout=60)
    assert process.returncode == code and "stopped" in err and "Traceback" not in err
    shared.wait_until_quiet()
    assert shared.states() == ["KILLED"]


def test_a_command_that_is_killed_takes_all_that_it_started_with_it(shared: Place, prewarm: str):
    process = start_and_wait_for_training(shared)
    serves = serving(prewarm)
    forks = forks_for(shared, serves)
    assert len(forks) >= 4 and len(psutil.Process(process.pid).children()) == 0
    process.kill()
    process.communicate()
    shared.wait_until_quiet()
    _, left = psutil.wait_procs(forks, timeout=10)
    assert serves.is_running() and not left
    assert shared.states() == ["KILLED"]


def test_where_something_differs_a_command_runs_by_itself(shared: Place, prewarm: str):
    serves = serving(prewarm)
    process = shared.start("check", "--check.level", "quick", env={"OMP_NUM_THREADS": "1"})
    seen = False
    while process.poll() is None:
        seen |= bool(forks_for(shared, serves))
        time.sleep(0.01)
    assert process.communicate()[0] and process.returncode == 0 and not seen


def test_a_prewarmed_process_that_has_gone_is_not_missed(shared: Place):
    (shared.runs / "work" / "up.json").write_text(json.dumps({"prewarm": str(shared.folder / "nowhere")}))
    done = shared.torchmill("check", "--check.level", "quick")
    assert done.returncode == 0 and "pass" in done.stdout, done.stderr
