"""The UIs and the runner of schedules, as a user has them."""

import json
import os
import signal
import sqlite3
import time
import urllib.error
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tests.flows.conftest import Place, ask, running_server, use_prewarm
from torchmill.components.config import RunConfig
from torchmill.components.errors import ConfigError
from torchmill.components.runs.folders import Runs
from torchmill.flows.services import schedule

pytestmark = pytest.mark.services


class Up:
    """A `torchmill up` on ports that nobody else has."""

    def __init__(self, place: Place, *options: str):
        self.place = place
        self.process = place.start("up", *options, start_new_session=True)
        self.lines: list[str] = []
        assert self.process.stdout
        for line in self.process.stdout:
            self.lines.append(line)
            if line.startswith("Ctrl-C"):
                break
        else:
            assert self.process.stderr
            raise AssertionError(self.process.stderr.read())

    def address(self, service: str) -> str:
        return next(line.split()[1] for line in self.lines if line.startswith(service))

    def end(self) -> int:
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGINT)  # as a terminal's Ctrl-C does
        self.process.communicate(timeout=60)
        return self.process.returncode


@pytest.fixture
def up(place: Place) -> Iterator[Up]:
    up = Up(place)
    yield up
    up.end()


def get(url: str, body: object = None) -> bytes:
    for _ in range(20):
        try:
            return ask(url, body)
        except urllib.error.HTTPError as error:
            if error.code != 503:  # Prefect's word for a database that is busy; its own client asks again, too
                raise
        time.sleep(0.5)
    raise AssertionError(f"{url} stays busy")


def wait_for(condition, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.5)


def test_a_schedule_starts_by_itself_is_seen_in_both_uis_and_survives_a_restart(
    used: Place, prewarm_without_server: str
):
    up = Up(used)
    try:
        _see_a_schedule_start(used, up)
        _start_a_long_training(used, up)
    finally:
        code = up.end()
    assert code == 0
    used.wait_until_quiet()

    # What ran when it ended is closed in both.
    assert set(used.states()) == {"FINISHED", "KILLED"}
    begun = "state_type IN ('RUNNING', 'PENDING')"
    assert used.prefect(f"SELECT name, state_name FROM flow_run WHERE {begun}") == []
    assert used.prefect(f"SELECT name, state_name FROM task_run WHERE {begun}") == []

    use_prewarm(used, prewarm_without_server)
    with running_server(used):  # otherwise each command starts its own
        listed = used.torchmill("schedule", "--list")
        assert "every minute" in listed.stdout and "* * * * *" in listed.stdout
        removed = used.torchmill("schedule", "--remove", "every minut")
        assert removed.returncode == 2 and "every minute" in removed.stderr
        assert used.torchmill("schedule", "--remove", "every minute").returncode == 0
        assert "every minute" not in used.torchmill("schedule", "--list").stdout


def _see_a_schedule_start(place: Place, up: Up) -> None:
    assert b"mlflow" in get(up.address("MLflow")).lower()
    assert b"prefect" in get(up.address("Prefect")).lower()
    get(up.address("Runner"))

    # Started twice, it says where it is and leaves.
    again = place.torchmill("up")
    assert again.returncode == 0 and "up already" in again.stdout and up.address("MLflow") in again.stdout

    scheduled = place.torchmill("schedule", "--cron", "* * * * *", "--name", "every minute", "--train.epochs", "1")
    assert scheduled.returncode == 0, scheduled.stderr
    wait_for(lambda: _states(place), 180)
    pause_deployment(up, "every minute")  # one run shows it; further ones would begin beside it
    wait_for(lambda: "FINISHED" in _states(place), 180)
    runs = json.loads(get(f"{up.address('MLflow')}/api/2.0/mlflow/runs/search", {"experiment_ids": ["1"]}))["runs"]
    flow_runs = json.loads(get(f"{up.address('Prefect')}/api/flow_runs/filter", {}))
    finished = {run["info"]["run_name"] for run in runs if run["info"]["status"] == "FINISHED"}
    wait_for(lambda: finished & _completed(up), 30)
    assert any(flow_run["auto_scheduled"] and flow_run["name"] in finished for flow_run in flow_runs)
    artifacts = json.loads(
        get(f"{up.address('MLflow')}/api/2.0/mlflow/artifacts/list?run_id={runs[-1]['info']['run_id']}")
    )
    assert {"onnx", "pictures", "weights"} <= {file["path"] for file in artifacts["files"]}


def address_of_deployment(up: Up, name: str) -> str:
    api = f"{up.address('Prefect')}/api"
    deployments = json.loads(get(f"{api}/deployments/filter", {}))
    (deployment,) = (deployment for deployment in deployments if deployment["name"] == name)
    return f"{api}/deployments/{deployment['id']}"


def pause_deployment(up: Up, name: str) -> None:
    get(f"{address_of_deployment(up, name)}/pause_deployment", {})


def _start_a_long_training(place: Place, up: Up) -> None:
    scheduled = place.torchmill("schedule", "--cron", "0 3 1 1 *", "--name", "long", "--train.epochs", "5000")
    assert scheduled.returncode == 0, scheduled.stderr
    get(f"{address_of_deployment(up, 'long')}/create_flow_run", {"state": {"type": "SCHEDULED"}})
    wait_for(lambda: "RUNNING" in _states(place), 90)


def test_a_schedule_of_an_earlier_version_is_brought_up_to_date(prewarmed: Place):
    used = prewarmed
    scheduled = used.torchmill("schedule", "--cron", "0 3 1 1 *", "--name", "nightly")
    assert scheduled.returncode == 0, scheduled.stderr
    used.wait_until_quiet()
    with closing(sqlite3.connect(used.runs / "prefect" / "prefect.db", timeout=30)) as connection, connection:
        connection.execute("UPDATE deployment SET entrypoint = 'flows.train.train'")
    up = Up(used, "--no-standby")
    try:
        assert "Brought 1 schedule of an earlier version up to date: nightly\n" in up.lines
        assert used.prefect("SELECT entrypoint FROM deployment") == [("torchmill.flows.train.train",)]
    finally:
        assert up.end() == 0
    assert "prewarm" not in json.loads((used.runs / "work" / "up.json").read_text())


@pytest.mark.slow
def test_killed_outright_it_leaves_no_process_behind(place: Place, up: Up):
    assert len(place.processes()) >= 4
    up.process.kill()
    place.wait_until_quiet()


@pytest.mark.parametrize(
    ("cron", "complaint"),
    [
        ("99 3 * * *", "Invalid cron string"),
        ("every day", "it has 2 fields, not five"),
        ("", "it has 0 fields"),
        ("0 0 3 * * *", "it has 6 fields, not five"),
        ("0 3 31 2 *", "there is no such day"),
    ],
)
def test_a_time_that_is_none_is_told(cron: str, complaint: str):
    with pytest.raises(ConfigError, match=f"Cannot schedule '.*': .*{complaint}.* as \"0 3 "):
        schedule.add(Runs(Path("nowhere")), RunConfig(), cron, "Europe/Berlin")


def test_a_zone_that_is_unknown_is_told():
    with pytest.raises(ConfigError, match=r"Unknown time zone 'Europe/Berlim'\. Did you mean Europe/Berlin"):
        schedule.add(Runs(Path("nowhere")), RunConfig(), "0 3 * * *", "Europe/Berlim")


def test_a_mistyped_time_is_told_in_a_line(place: Place):
    done = place.torchmill("schedule", "--cron=0 0 3 * * *")
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1, done.stderr


def _states(place: Place) -> list[str]:
    return place.states() if (place.runs / "mlflow.db").exists() else []


def _completed(up: Up) -> set[str]:
    flow_runs = json.loads(get(f"{up.address('Prefect')}/api/flow_runs/filter", {}))
    return {run["name"] for run in flow_runs if run["state_type"] == "COMPLETED"}
