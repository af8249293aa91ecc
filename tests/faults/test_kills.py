"""SIGKILL at random moments, again and again: the results equal those of an undisturbed training."""

import hashlib
import json
import os
import random
import re
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.flows.conftest import Place, make_used_place, use_prewarm
from tests.toy_fields import own_file

pytestmark = pytest.mark.services

KILLS = int(os.environ.get("TORCHMILL_KILLS", "50"))
SEED = int(os.environ.get("TORCHMILL_KILLS_SEED", "0"))

# Everything that makes a resume hard: dropout, augmentation, batch norm, a schedule, EMA, patience.
NET = """
from layers import Block
from torch import nn

class Net(nn.Module):
    def __init__(self, num_classes, in_channels):
        super().__init__()
        self.block, self.drop, self.head = Block(in_channels, 8), nn.Dropout(0.2), nn.Linear(8 * 14 * 14, num_classes)

    def forward(self, images):
        return self.head(self.drop(self.block(images)).flatten(1))
"""
LAYERS = """
from torch import nn

def Block(channels, width):
    return nn.Sequential(nn.Conv2d(channels, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU(), nn.MaxPool2d(2))
"""
COMMAND = [
    *("train", "--json", "--model", "net.py:Net", "--train.epochs", "14", "--train.patience", "6"),
    *("--train.ema", "0.9", "--train.augment", "shift", "--train.lr", "0.004", "--train.checkpoint_seconds", "0.15"),
]
# Log lines at the begin of steps. The delay of a kill counts from one of them.
MARKS = [
    "",
    r"\(seed",
    r"data  ",
    r"network  ",
    r"fit  ",
    r"epoch \d+/",
    r"test  ",
    r"onnx  ",
    r"registered  ",
    r"promote  ",
]


MakePlace = Callable[[str], Place]


@pytest.fixture
def make(tmp_path: Path, data: Path, databases: Path) -> MakePlace:
    return lambda name: _make(tmp_path / name, data, databases)


def _make(folder: Path, data: Path, databases: Path) -> Place:
    folder.mkdir()
    place = make_used_place(folder, data, databases)
    (folder / "net.py").write_text(NET)
    (folder / "layers.py").write_text(LAYERS)
    return place


def run_until(
    place: Place, seed: int, mark: str, delay: float, all_of_them: bool, command: Sequence[str] = COMMAND
) -> str | None:
    """Start the command and kill it `delay` seconds after it logged `mark`; return its stdout if it was faster.

    Args:
        all_of_them: kill all processes of the folder at once, as a power cut does; otherwise the command's process
            group.
    """
    process = place.start(*command, "--seed", str(seed), start_new_session=True)
    assert process.stderr and process.stdout
    has_logged = threading.Event()
    lines: list[str] = []

    def listen() -> None:
        for line in process.stderr or ():
            lines.append(line)
            if re.search(mark, line):
                has_logged.set()

    listener = threading.Thread(target=listen)
    listener.start()
    if not mark:
        has_logged.set()
    while not has_logged.wait(0.01) and process.poll() is None:
        pass
    with suppress(subprocess.TimeoutExpired):
        process.wait(delay)
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
        if all_of_them:
            for survivor in place.processes():
                with suppress(psutil.NoSuchProcess):
                    survivor.kill()
    out = process.stdout.read()
    process.wait()
    listener.join()
    process.stdout.close()
    process.stderr.close()
    assert process.returncode in (0, -signal.SIGKILL), "".join(lines)
    return out if process.returncode == 0 else None


def results_of(place: Place, out: str) -> dict[str, Any]:
    """Return everything that a run leaves, except ids, times and speeds."""
    result = json.loads(out.splitlines()[-1])
    place.wait_until_quiet(60)
    run_id = result["run_id"]
    metrics: dict[str, list[Any]] = {}
    for key, step, value in place.mlflow(
        f"SELECT key, step, value FROM metrics WHERE run_uuid = '{run_id}' ORDER BY key, step"
    ):
        by_nature = key.startswith("time/")
        metrics.setdefault(key, []).append((step, None if by_nature else value))
    # A step that was done before the kill took no time in the last process.
    metrics = {key: values for key, values in metrics.items() if not key.endswith("_seconds")}
    (artifacts,) = (place.runs / "artifacts").glob(f"*/{run_id}/artifacts")
    files = {
        str(path.relative_to(artifacts)): hashlib.sha256(_without_place(path)).hexdigest()
        for path in artifacts.rglob("*")
        if path.is_file()
    }
    for by_nature in (
        *("report.md", "report.html", "promotion.json", "onnx/MODEL_CARD.md"),
        *("check.txt", "pictures/curves.png", "git.diff"),
    ):
        files.pop(by_nature, None)
    return {
        "weights": result["weights"]["sha256"],
        "onnx": result["onnx"]["sha256"],
        "scores": {name: value for name, value in result["metrics"].items() if name != "samples_per_second"},
        "metrics": metrics,
        "params": dict(place.mlflow(f"SELECT key, value FROM params WHERE run_uuid = '{run_id}'")),
        "artifacts": files,
        "status": place.mlflow(f"SELECT status FROM runs WHERE run_uuid = '{run_id}'"),
    }


def _without_place(path: Path) -> bytes:
    """Return the content of a file; of a configuration without the comment that names the place of the user's data."""
    content = path.read_bytes()
    return content.partition(b"\n")[2] if path.name == "config.yaml" else content


def leftovers(place: Place, rounds: int) -> dict[str, Any]:
    """Return everything that no kill may leave."""
    begun = "('RUNNING', 'PENDING', 'CANCELLING')"
    return {
        "runs in MLflow beyond one per round": place.mlflow("SELECT count(*) FROM runs")[0][0] - rounds,
        "versions beyond one per round": place.mlflow("SELECT count(*) FROM model_versions")[0][0] - rounds,
        "models beyond one per round": place.mlflow(
            "SELECT count(*) FROM logged_models WHERE lifecycle_stage = 'active'"
        )[0][0]
        - rounds,
        "metrics twice": place.mlflow(
            "SELECT run_uuid, key, step FROM metrics GROUP BY run_uuid, key, step HAVING count(*) > 1"
        ),
        "flow runs that say they run": place.prefect(f"SELECT name FROM flow_run WHERE state_type IN {begun}"),
        "task runs that say they run": place.prefect(f"SELECT name FROM task_run WHERE state_type IN {begun}"),
        "half-written files": [str(path) for path in place.runs.rglob("*partial*")],
        "locks of flow runs": [str(path) for path in (place.runs / "work" / "flows").glob("*")],
    }


def kill_until_done(
    place: Place, seed: int, chance: random.Random, kills: int, command: Sequence[str] = COMMAND
) -> tuple[str, list[str]]:
    """Run a training to its end with up to ``kills`` kills, in the order of the steps; return stdout and the kills."""
    moments: list[str] = []
    for place_of_kill in sorted(chance.randrange(len(MARKS)) for _ in range(kills)):
        # A step that was done before the last kill logs nothing: the next step's line counts.
        mark = "|".join(MARKS[place_of_kill:])
        delay = chance.uniform(0, 0.7) if place_of_kill else chance.uniform(0.2, 6)
        all_of_them = chance.random() < 0.4
        out = run_until(place, seed, mark if place_of_kill else "", delay, all_of_them, command)
        if out is not None:
            return out, moments
        step = MARKS[place_of_kill].strip() or "start"
        moments.append(f"{step} + {delay:.2f} s{', all processes' if all_of_them else ''}")
    out = run_until(place, seed, "never said", 600, False, command)
    assert out is not None
    return out, moments


def rounds(
    make: MakePlace, kills: int, per_round: int, command: Sequence[str] = COMMAND
) -> Iterator[tuple[int, list[str]]]:
    """Train with one seed after the other until there were enough kills; compare each with an undisturbed training."""
    chance = random.Random(SEED)
    calm, killed = make("calm"), make("killed")
    done, seed = 0, 0
    while done < kills:
        undisturbed = calm.torchmill(*command, "--seed", str(seed))
        assert undisturbed.returncode == 0, undisturbed.stderr
        expected = results_of(calm, undisturbed.stdout)
        out, moments = kill_until_done(killed, seed, chance, min(per_round, kills - done), command)
        assert results_of(killed, out) == expected, moments
        done, seed = done + len(moments), seed + 1
        yield seed, moments
    repaired = killed.torchmill("repair")  # for a flow run that was killed before it had a lock
    assert repaired.returncode == 0, repaired.stderr
    killed.wait_until_quiet(60)
    remaining = leftovers(killed, seed)
    assert not any(remaining.values()), remaining


def test_a_training_that_is_killed_a_few_times_equals_an_undisturbed_one(make: MakePlace, prewarm_without_server: str):
    def make_prewarmed(name: str) -> Place:
        place = make(name)
        use_prewarm(place, prewarm_without_server)
        return place

    for _, moments in rounds(make_prewarmed, kills=2, per_round=2):
        assert len(moments) <= 2


@pytest.mark.slow
@pytest.mark.skipif("TORCHMILL_KILLS" not in os.environ, reason="takes a quarter of an hour: make faults")
def test_fifty_kills_across_all_steps_leave_no_difference(make: MakePlace):
    total = 0
    started = time.monotonic()
    for seed, moments in rounds(make, KILLS, per_round=9):
        total += len(moments)
        print(f"\nround {seed}: {len(moments)} kills, 0 differences: {'; '.join(moments)}", flush=True)
    print(f"\n{total} kills in {seed} runs, 0 differences, {time.monotonic() - started:.0f} s", flush=True)
    assert total >= KILLS


TASKS = {
    "segmentation": ("own.py:scans", "segmentation", "unet", "--train.augment", "flip,rotate"),
    "language model": ("own.py:tokens", "language_model", "gpt", "--train.ema", "0.9"),
    "GAN": ("own.py:images", "own.py:Adversarial", "own.py:Gan", "--train.clip", "norm:1"),
}
MORE = """
def tokens():
    return {"tokens": ragged()["tokens"]}

def images():
    return {"image": np.random.default_rng(5).integers(0, 255, (300, 8, 8)).astype(np.uint8)}
"""


@pytest.mark.slow
@pytest.mark.skipif("TORCHMILL_KILLS" not in os.environ, reason="takes a quarter of an hour: make faults")
@pytest.mark.parametrize("task", TASKS)
def test_kills_leave_no_difference_at_any_task(make: MakePlace, task: str):
    def with_own_file(name: str) -> Place:
        place = make(name)
        own_file(place.folder, MORE)
        return place

    data, name, model, *more = TASKS[task]
    epochs = (
        "--train.epochs",
        "12",
        "--train.checkpoint_seconds",
        "0.1",
        "--train.batch_size",
        "8",
        "--train.lr",
        "0.005",
    )
    command = ("train", "--json", "--data", data, "--task", name, "--model", model, *epochs, *more)
    kills = min(KILLS, 20)
    done = 0
    for seed, moments in rounds(with_own_file, kills, 10, command):
        done += len(moments)
        print(f"\n{task}, round {seed}: {len(moments)} kills, 0 differences: {'; '.join(moments)}", flush=True)
    assert done >= kills
