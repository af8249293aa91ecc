"""Source code that a server recorded runs once the user says so; what a server calls its runs is no path."""

import http.server
import json
import os
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.flows.conftest import Place
from tests.slow import slow_but
from torchmill.components.errors import UserError
from torchmill.components.runs.folders import Runs, below
from torchmill.flows.recipes import check_trust

EVIL = "../../../evil"


@pytest.fixture
def runs(tmp_path: Path) -> Runs:
    return Runs(tmp_path / "mlruns").ready()


@pytest.fixture
def code(tmp_path: Path) -> Path:
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "net.py").write_text("import os")
    return tmp_path / "code"


@pytest.fixture
def keyboard(monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """A terminal in place of stdin; what is written to its other end is typed."""
    keys, terminal = os.openpty()
    with os.fdopen(terminal, encoding="utf-8") as stdin:
        monkeypatch.setattr(sys, "stdin", stdin)
        yield keys
    os.close(keys)


def test_code_of_the_own_mlflow_runs_unasked(runs: Runs, code: Path, monkeypatch: pytest.MonkeyPatch, caplog):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    with caplog.at_level("INFO", "torchmill"):
        check_trust(runs, "calm-otter", code, is_trusted=False)
    assert "running 1 file of source code that run calm-otter recorded" in caplog.text


def test_code_of_a_server_needs_a_yes(runs: Runs, code: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://me:secret@example.org")
    with Path(os.devnull).open(encoding="utf-8") as stdin:
        monkeypatch.setattr(sys, "stdin", stdin)
        with pytest.raises(UserError, match=r"at http://example.org was not run.*add --trust"):
            check_trust(runs, "calm-otter", code, is_trusted=False)
    check_trust(runs, "calm-otter", code, is_trusted=True)
    check_trust(runs, "calm-otter", code / "nothing", is_trusted=False)


def test_the_user_is_asked_once_about_the_same_code(
    runs: Runs, code: Path, monkeypatch: pytest.MonkeyPatch, keyboard: int, capsys
):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://example.org")
    os.write(keyboard, b"\n")
    with pytest.raises(UserError, match="was not run"):
        check_trust(runs, "calm-otter", code, is_trusted=False)
    os.write(keyboard, b"y\n")
    for _ in range(2):
        check_trust(runs, "calm-otter", code, is_trusted=False)
    assert capsys.readouterr().err.count("Run it? [y/N]") == 2
    (code / "net.py").write_text("import sys")
    os.write(keyboard, b"n\n")
    with pytest.raises(UserError, match="was not run"):
        check_trust(runs, "calm-otter", code, is_trusted=False)


@pytest.mark.parametrize("name", ["..", ".", "", "a/b", "/etc", EVIL, "a\\b", "a\0", "a\nb", "n" * 300])
def test_a_name_that_leads_elsewhere_is_no_path(tmp_path: Path, name: str):
    with pytest.raises(UserError, match="is no plain name"):
        below(tmp_path, "models", name)


@pytest.mark.parametrize("name", ["0f3a" * 8, "digits-cnn", "names.v2", "naïve bayes", "..."])
def test_a_plain_name_is_one(tmp_path: Path, name: str):
    assert below(tmp_path, name) == tmp_path / name


class EvilMlflow(http.server.BaseHTTPRequestHandler):
    """The part of MLflow's API that commands use, of a server whose run has a path for its id."""

    def answer(self) -> None:
        info = {"run_id": EVIL, "run_uuid": EVIL, "run_name": "calm-otter", "status": "FINISHED", "experiment_id": "1"}
        tags = [{"key": key, "value": "0" * 64} for key in ("weights.sha256", "data.sha256")]
        data = {"tags": tags, "params": [], "metrics": []}
        run = {"info": {**info, "start_time": 1, "artifact_uri": "mlflow-artifacts:/1/evil"}, "data": data}
        bodies = {
            "experiments/search": {"experiments": [{"experiment_id": "1", "name": "e", "lifecycle_stage": "active"}]},
            "runs/search": {"runs": [run]},
            "runs/get": {"run": run},
        }
        files = {"files": [{"path": name, "is_dir": False} for name in ("report.html", "config.yaml")]}
        body = next((body for path, body in bodies.items() if path in self.path), files)
        text = json.dumps(body).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def do_GET(self) -> None:
        self.answer()

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.answer()

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.mark.services
@pytest.mark.parametrize(
    "command", slow_but([["report", "last"]], [["report", "last"], ["compare", "last", "last"], ["evaluate", "last"]])
)
def test_a_server_cannot_write_outside_the_folder_of_runs(shared: Place, command: list[str]):
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), EvilMlflow) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        environment = {"MLFLOW_TRACKING_URI": f"http://127.0.0.1:{server.server_port}"}
        done = shared.torchmill(*command, env=environment)
        server.shutdown()
        thread.join()
    assert done.returncode == 1 and "is no plain name" in done.stderr, done.stderr
    assert "Traceback" not in done.stderr
    assert not [path for path in shared.folder.rglob("*") if "evil" in path.name or path.name == "report.html"]
