"""The Prefect server that runs share: found by its watcher's lock, whatever prefect.json says."""

import json
import os

import pytest

from torchmill.components.runs.folders import Runs
from torchmill.flows.services.prefect_server import ServerAtHand
from torchmill.flows.services.processes import answers, free_port
from torchmill.flows.services.up_state import read_up_state, shared_server_file

pytestmark = pytest.mark.services


@pytest.fixture
def runs(tmp_path, monkeypatch) -> Runs:
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    return Runs(tmp_path / "mlruns").ready()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # the watcher outlives its starter
def test_a_server_is_shared_while_its_watcher_lives_and_a_stale_file_starts_another(runs):
    """The pid in the file is a living process's: the system uses ids again."""
    gone = f"http://127.0.0.1:{free_port()}/api"
    file = shared_server_file(runs)
    file.write_text(json.dumps({"api": gone, "pid": os.getpid()}))
    with ServerAtHand(runs) as server:
        server.wait()
        assert server.api != gone and answers(f"{server.api}/health")

        for damage in (b"null", b"", b'{"api": "http://127.0.0.1', b'{"pid": 1}', b'{"api": "file:///etc/passwd"}'):
            file.write_bytes(damage)
            with ServerAtHand(runs) as second:
                assert second.api == server.api, damage
    assert len(list(runs.work.glob("prefect.json.damaged*"))) == 5


@pytest.mark.parametrize(
    "damage",
    [b"\xff\xfe", b"null", b"[]", b'{"prefect_api": 7}', b'{"mlflow": "x', b"[" * 5000, b'{"prewarm": "\\u0000"}'],
)
def test_a_damaged_up_json_is_set_aside_and_means_that_nothing_is_up(runs, damage, caplog):
    file = runs.work / "up.json"
    file.write_bytes(damage)
    assert read_up_state(runs).prefect_api == "" and not file.exists()
    assert file.with_name("up.json.damaged").read_bytes() == damage
    assert len(caplog.records) == 1 and "up.json.damaged" in caplog.text


@pytest.mark.parametrize("address", ["nonsense", "http://127.0.0.1:99999999", "http://[", "http://\x00", "ftp://x"])
def test_what_is_no_address_does_not_answer(address):
    assert not answers(address)
