"""A command hands itself over to a process of its own user that agrees at once, and to no other."""

import json
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from torchmill.components.files import write_text
from torchmill.components.runs.folders import Runs
from torchmill.flows.services.prewarm import client
from torchmill.flows.services.prewarm.agreement import AGREED, DIGEST_BYTES, GO, READY, is_own_user

NOBODY = 65534
Listener = Callable[..., bytearray]


@pytest.fixture
def runs(tmp_path: Path) -> Runs:
    runs = Runs(tmp_path / "mlruns").ready()
    write_text(runs.work / "up.json", json.dumps({"prewarm": str(tmp_path / "prewarm")}))
    return runs


@pytest.fixture
def answer_with(tmp_path: Path) -> Iterator[Listener]:
    """Listen as a prewarmed process would, answer the digest, the order and the last word, and note what comes."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(tmp_path / "prewarm"))
    listener.listen()
    threads = []

    def listen(*answers: bytes) -> bytearray:
        received = bytearray()

        def work() -> None:
            with suppress(OSError):
                connection, _ = listener.accept()
                with connection:
                    for lines, answer in zip((0, 2, 3), answers, strict=False):
                        while len(received) < DIGEST_BYTES or received.count(b"\n") < lines:
                            received.extend(connection.recv(1 << 20) or b"\n")
                        connection.sendall(answer)
                    while len(answers) < 3 and (more := connection.recv(1 << 20)):
                        received.extend(more)

        threads.append(threading.Thread(target=work))
        threads[0].start()
        return received

    yield listen
    listener.shutdown(socket.SHUT_RDWR)
    listener.close()
    for thread in threads:
        thread.join()


def test_it_runs_by_itself_beside_a_process_that_does_not_answer(runs: Runs, answer_with: Listener):
    received = answer_with()
    start = time.monotonic()
    assert client.try_run("check", ["check"], runs) is None
    assert time.monotonic() - start < 20  # 2 s, and what the machine adds
    assert len(received) <= DIGEST_BYTES


def test_it_tells_its_environment_to_a_process_that_agrees_alone(
    runs: Runs, answer_with: Listener, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "a secret word")
    received = answer_with(b"something else\n")
    assert client.try_run("check", ["check"], runs) is None
    assert b"secret" not in received and len(received) == DIGEST_BYTES


def test_what_was_not_confirmed_does_not_run_there(runs: Runs, answer_with: Listener):
    received = answer_with(AGREED)
    assert client.try_run("check", ["check"], runs) is None
    assert b'"arguments": ["check"]' in received and GO not in received


def test_a_command_whose_process_died_unseen_is_no_success(runs: Runs, answer_with: Listener):
    answer_with(AGREED, READY, b"")
    pid = os.fork()
    if pid == 0:
        client.try_run("check", ["check"], runs)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) < 0


def as_nobody(work: Callable[[], None]) -> int:
    pid = os.fork()
    if pid == 0:
        os.setuid(NOBODY)
        work()
        os._exit(0)
    return pid


@pytest.mark.skipif(os.geteuid() != 0, reason="another user is needed, and only root may become one")
def test_nothing_is_sent_to_another_users_process(runs: Runs, tmp_path: Path):
    reading, writing = os.pipe()
    for folder in (tmp_path, *list(tmp_path.parents)[:-2]):
        folder.chmod(folder.stat().st_mode | 0o011)
    tmp_path.chmod(0o777)

    def listen() -> None:
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(str(tmp_path / "prewarm"))
        listener.listen()
        os.write(writing, b".")
        connection, _ = listener.accept()
        os.write(writing, str(len(connection.recv(1000))).encode())

    pid = as_nobody(listen)
    assert os.read(reading, 1) == b"."
    assert client.try_run("check", ["check"], runs) is None
    assert os.read(reading, 10) == b"0"
    os.waitpid(pid, 0)


@pytest.mark.skipif(os.geteuid() != 0, reason="another user is needed, and only root may become one")
def test_another_users_command_is_not_served():
    theirs = socket.socket(socket.AF_UNIX)
    theirs.bind("")  # an address without a file, which every user may reach
    theirs.listen()

    def ask() -> None:
        connection = socket.socket(socket.AF_UNIX)
        connection.connect(theirs.getsockname())
        connection.recv(1)

    pid = as_nobody(ask)
    connection, _ = theirs.accept()
    assert not is_own_user(connection)
    connection.close()
    os.waitpid(pid, 0)
    theirs.close()
