"""The result of a training sends its reader to an address only if this folder's own UI answers there."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from types import SimpleNamespace

import pytest

from torchmill.components.files import locked
from torchmill.components.runs.folders import Runs
from torchmill.flows.cli.results import where_to_look
from torchmill.flows.services import up_state

RESULT: SimpleNamespace = SimpleNamespace(name="calm-otter", mlflow_url="http://127.0.0.1:5000/#/experiments/1/runs/7")


class Healthy(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[str]:
    """A server that answers every request, as MLflow's or somebody else's."""
    with HTTPServer(("127.0.0.1", 0), Healthy) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.fixture
def runs(tmp_path, monkeypatch) -> Runs:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return Runs(tmp_path / "mlruns").ready()


ALL = "All runs       {}/#/experiments/1/runs?viewStateShareKey=torchmill"


def test_without_a_running_up_no_address_is_shown_even_if_a_server_answers_there(runs, server):
    assert where_to_look(RESULT, runs) == "torchmill up, then run calm-otter"
    up_state.state_file(runs).write_text(json.dumps({"mlflow": server}))  # from an earlier one
    assert where_to_look(RESULT, runs) == "torchmill up, then run calm-otter"


def test_a_running_up_gives_the_address_where_it_is_now(runs, server):
    up_state.state_file(runs).write_text(json.dumps({"mlflow": server}))
    with locked(up_state.lock_file(runs)):
        assert where_to_look(RESULT, runs) == f"{server}/#/experiments/1/runs/7\n{ALL.format(server)}"
    with locked(up_state.lock_file(runs)):
        up_state.state_file(runs).write_text(json.dumps({"mlflow": "http://127.0.0.1:1"}))  # it does not answer yet
        assert where_to_look(RESULT, runs) == "torchmill up, then run calm-otter"


def test_the_users_own_server_is_named(runs, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "https://mlflow.example/")
    page = "https://mlflow.example/#/experiments/1/runs/7"
    assert where_to_look(RESULT, runs) == f"{page}\n{ALL.format('https://mlflow.example')}"
