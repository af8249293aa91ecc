"""A training ends well though its Prefect server goes away beside it, and its history is whole afterwards."""

import os
import signal
import subprocess
from pathlib import Path

import psutil
import pytest

from tests.flows.conftest import Place, client_of, make_used_place, use_prewarm
from tests.flows.services.test_up import Up

pytestmark = pytest.mark.services


def start_training(place: Place, epochs: int = 12, **environment: str) -> subprocess.Popen[str]:
    """Start a training, and return when it trains."""
    process = place.start("train", "--train.epochs", str(epochs), env=environment, start_new_session=True)
    assert process.stderr
    for line in process.stderr:
        if "epoch 2/" in line:
            return process
    raise AssertionError("it did not come to training")


def server_processes(place: Place) -> list[psutil.Process]:
    """The run's own Prefect server and its watcher."""
    names = ("flows.services.prefect_app", "flows.services.prefect_server")
    return [process for process in place.processes() if any(name in " ".join(process.cmdline()) for name in names)]


def check_history(place: Place, process: subprocess.Popen[str], said: str) -> None:
    _, err = process.communicate(timeout=240)
    assert process.returncode == 0 and "Traceback" not in err, err
    assert said in err
    assert place.states() == ["FINISHED"]
    place.wait_until_quiet(90)
    repaired = place.torchmill("repair")
    assert repaired.returncode == 0, repaired.stdout + repaired.stderr
    flow_runs = place.prefect("SELECT id, state_type FROM flow_run")
    tasks = place.prefect("SELECT name, state_type FROM task_run")
    assert [state for _, state in flow_runs] == ["COMPLETED"], flow_runs
    assert {state for _, state in tasks} == {"COMPLETED"} and len(tasks) == len({name for name, _ in tasks}), tasks
    journal = {record["name"] for record in place.journal() if record["kind"] == "step"}
    assert {name for name, _ in tasks} == journal and len(journal) >= 8
    assert place.prefect("SELECT key FROM artifact") == [("train-report",)]


def kill_own_server(place: Place) -> None:
    for process in server_processes(place):
        process.kill()


@pytest.mark.parametrize("end", [signal.SIGINT, pytest.param(signal.SIGKILL, marks=pytest.mark.slow)])
def test_up_ends_beside_it(used: Place, prewarm_without_server: str, end: signal.Signals):
    up = Up(used, "--no-prewarm")
    use_prewarm(used, prewarm_without_server)
    process = start_training(used)
    os.kill(up.process.pid, end)
    out, _ = up.process.communicate(timeout=60)
    assert up.process.returncode == (0 if end == signal.SIGINT else -signal.SIGKILL)
    assert ("Runs are still at work" in out) == (end == signal.SIGINT)
    check_history(used, process, "Another one goes on with the same history")


def test_its_own_server_is_killed(prewarmed: Place):
    process = start_training(prewarmed)
    kill_own_server(prewarmed)
    check_history(prewarmed, process, "Another one goes on with the same history")


@pytest.mark.slow
def test_a_server_of_the_users_goes_and_comes_back_later(used: Place, tmp_path: Path, data: Path, databases: Path):
    (tmp_path / "team").mkdir()
    team = make_used_place(tmp_path / "team", data, databases)
    up = Up(team, "--no-prewarm")
    environment = client_of(f"{up.address('Prefect')}/api")
    process = start_training(used, **environment)
    up.process.kill()
    up.process.communicate()
    _, err = process.communicate(timeout=240)
    assert process.returncode == 0 and "Traceback" not in err, err
    assert "did not come back" in err and used.states() == ["FINISHED"]
    again = Up(team, "--no-prewarm")
    try:
        assert client_of(f"{again.address('Prefect')}/api") == environment
        repaired = used.torchmill("repair", env=environment)
        assert repaired.returncode == 0 and "completed" in repaired.stdout, repaired.stdout + repaired.stderr
        assert team.prefect("SELECT state_type FROM flow_run") == [("COMPLETED",)]
        tasks = team.prefect("SELECT name, state_type FROM task_run")
        assert {state for _, state in tasks} == {"COMPLETED"}
        assert {name for name, _ in tasks} == {record["name"] for record in used.journal() if record["kind"] == "step"}
    finally:
        again.end()
        team.end()
