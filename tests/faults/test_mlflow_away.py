"""MLflow's server is killed, or hangs, while a network trains: nothing is lost, and training does not wait."""

import contextlib
import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.flows.conftest import Place
from torchmill.flows.services.processes import answers, free_port

pytestmark = pytest.mark.services


@dataclass
class Server:
    """A team's MLflow server, in its own process group."""

    folder: Path
    port: int
    process: subprocess.Popen[bytes] | None = None

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        self.process = subprocess.Popen(
            [
                *(sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(self.port)),
                *("--workers", "1", "--backend-store-uri", f"sqlite:///{self.folder}/mlflow.db"),
                *("--artifacts-destination", str(self.folder / "artifacts")),
            ],
            env=os.environ | {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        while not answers(f"{self.address}/health"):
            assert self.process.poll() is None
            time.sleep(0.1)

    def send(self, number: signal.Signals) -> None:
        if self.process:
            os.killpg(self.process.pid, number)
            if number == signal.SIGKILL:
                self.process.wait()
                self.process = None

    def query(self, text: str) -> list[tuple[Any, ...]]:
        with contextlib.closing(sqlite3.connect(self.folder / "mlflow.db", timeout=30)) as connection:
            return connection.execute(text).fetchall()


@pytest.fixture
def server(tmp_path: Path, databases: Path) -> Iterator[Server]:
    folder = tmp_path / "team"
    folder.mkdir()
    (folder / "mlflow.db").write_bytes((databases / "mlflow.db").read_bytes())
    server = Server(folder, free_port())
    server.start()
    yield server
    server.send(signal.SIGKILL)


EPOCHS = 60


def start_until_epoch(place: Place, server: Server, epoch: int, *more: str) -> subprocess.Popen[str]:
    command = ("train", "--json", "--train.epochs", str(EPOCHS), *more)
    process = place.start(*command, env={"MLFLOW_TRACKING_URI": server.address})
    assert process.stderr and any(f"epoch {epoch}/" in line for line in process.stderr)
    return process


def check_all_is_there(server: Server, run_id: str) -> None:
    assert server.query("SELECT status FROM runs") == [("FINISHED",)]
    points = server.query("SELECT key, count(*), count(DISTINCT step) FROM metrics GROUP BY key")
    by_key = {key: (count, steps) for key, count, steps in points}
    assert by_key["train/loss"] == by_key["validation/accuracy"] == (EPOCHS, EPOCHS)
    assert by_key["test/accuracy"] == (1, 1)
    assert server.query("SELECT run_id FROM model_versions") == [(run_id,)]
    assert list(server.folder.rglob(f"artifacts/**/{run_id}/**/best.safetensors"))


@pytest.mark.slow
def test_a_server_that_is_killed_and_comes_back_has_everything(shared: Place, server: Server):
    process = start_until_epoch(shared, server, 5)
    server.send(signal.SIGKILL)
    assert process.stderr and any(f"epoch {EPOCHS // 2}/" in line for line in process.stderr)  # it trains on meanwhile
    server.start()
    out, err = process.communicate(timeout=200)
    assert process.returncode == 0, err
    shared.wait_until_quiet(60)
    check_all_is_there(server, json.loads(out)["run_id"])


@pytest.mark.slow
def test_a_server_that_hangs_to_the_end_costs_little_and_repair_sends_all(shared: Place, server: Server):
    process = start_until_epoch(shared, server, 5)
    server.send(signal.SIGSTOP)  # it accepts connections, but never answers
    out, err = process.communicate(timeout=200)
    assert process.returncode == 0, err
    assert "MLflow does not answer" in err and "torchmill repair" in err and "Traceback" not in err
    result = json.loads(out)
    assert result["onnx"]["version"] == "pending" and Path(result["onnx"]["path"]).exists()
    for process in shared.processes():  # the recorder, which would try for another minute
        process.kill()
    server.send(signal.SIGKILL)
    environment = {"MLFLOW_TRACKING_URI": server.address}
    refused = shared.torchmill("repair", env=environment)
    assert refused.returncode == 1 and "connection refused" in refused.stdout
    server.start()
    told = shared.torchmill("repair", "--dry-run", env=environment)
    assert f"run {result['name']}: MLflow is to be told" in told.stdout
    assert server.query("SELECT status FROM runs") == [("RUNNING",)]
    told = shared.torchmill("repair", env=environment)
    assert f"run {result['name']}: FINISHED, and MLflow has all of it" in told.stdout
    check_all_is_there(server, result["run_id"])
    assert "nothing to mend" in shared.torchmill("repair", env=environment).stdout


@pytest.mark.slow
def test_a_recorder_that_is_killed_is_replaced(used: Place):
    process = used.start("train", "--json", "--train.epochs", str(EPOCHS))
    assert process.stderr and any("epoch 3/" in line for line in process.stderr)
    (recorder,) = (process for process in used.processes() if "torchmill.components.tracking" in process.cmdline())
    recorder.kill()
    _, err = process.communicate(timeout=200)
    assert process.returncode == 0, err
    used.wait_until_quiet()
    assert used.states() == ["FINISHED"]
    points = used.mlflow("SELECT count(*), count(DISTINCT step) FROM metrics WHERE key = 'train/loss'")
    assert points == [(EPOCHS, EPOCHS)]
    assert used.mlflow("SELECT count(*) FROM model_versions") == [(1,)]
