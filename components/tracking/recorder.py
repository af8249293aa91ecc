"""The recorder: a second process that follows a run's journal and delivers it to MLflow."""

import gc
import importlib
import json
import os
import select
import sys
import time
import warnings
from io import BufferedReader
from pathlib import Path

from torchmill.components.files import locked
from torchmill.components.runs.claim import is_alive
from torchmill.components.runs.folders import Runs
from torchmill.components.tracking.journal import read_delivered
from torchmill.components.tracking.session import Session, explain
from torchmill.components.tracking.store import be_silent

LINGER_SECONDS = 60.0  # so long the recorder tries on when the run's process has gone

NEEDED = ("mlflow", "mlflow.onnx", "mlflow.pyfunc")
"""What the recorder imports."""


def record(orders: BufferedReader) -> None:
    """Be the recorder: read which journal to follow from ``orders``, and follow it to its end or its writer's."""
    gc.disable()  # a fifth of the time that the imports take
    for name in NEEDED:  # here, while the run's process imports torch
        importlib.import_module(name)
    gc.enable()
    order = orders.readline()
    if not order:
        return  # the run ended before it began
    journal, runs = (Path(json.loads(order)[key]) for key in ("journal", "runs"))
    log = journal.with_name("recorder.log").open("a", encoding="utf-8")
    os.dup2(log.fileno(), sys.stderr.fileno())
    with locked(journal.with_name("recorder.lock")):  # the one before, of a process that was killed, may not be done
        session = Session(journal, Runs(runs))
        try:
            _follow(session, orders)
        except Exception as error:  # whatever MLflow, its database or the disk says is told to the run's process
            message, remedy, unreachable = explain(error, session)
            session.receipt("refused", message=message, remedy=remedy, unreachable=unreachable)
            raise
    deliver_rest(Runs(runs))


def _follow(session: Session, orders: BufferedReader) -> None:
    writer_lives = True
    while writer_lives and not (session.ended and session.is_delivered()):
        ready, _, _ = select.select([orders], [], [], 0.05)
        writer_lives = not ready or bool(orders.read1())
        session.read()
        session.deliver()
    deadline = time.monotonic() + LINGER_SECONDS
    while not session.is_delivered() and time.monotonic() < deadline:
        session.flushed = 0.0  # no gathering any more
        session.deliver()
        time.sleep(0.05)
    if session.is_delivered() and not session.ended:
        session.close_as_killed()


def undelivered(runs: Runs) -> list[Path]:
    """Folders of runs that no process is at work on, and of which MLflow does not know all, or not how they ended."""
    found = []
    for journal in sorted(runs.work.glob("*/journal.jsonl"), key=lambda path: path.stat().st_mtime):
        sent = json.loads(read_delivered(journal.parent) or '{"to": 0, "status": ""}')
        behind = sent["to"] < journal.stat().st_size or not sent["status"]
        if behind and not is_alive(journal.parent):
            found.append(journal.parent)
    return found


def deliver_rest(runs: Runs) -> dict[Path, str]:
    """Send MLflow what runs that are over could not send; gives per folder how the run stands, or why it can't be sent.

    A run whose process died without a word is closed as KILLED.
    """
    told: dict[Path, str] = {}
    for folder in undelivered(runs):
        with locked(folder / "recorder.lock", wait=False) as free:
            if is_alive(folder):
                continue  # it goes on
            if not free:
                told[folder] = "another process is sending it"
                continue
            session = Session(folder / "journal.jsonl", runs)
            try:
                session.read()
                session.flushed = 0.0
                session.deliver()
                if session.is_delivered() and not session.ended:
                    session.close_as_killed()
                told[folder] = session.sent["status"] if session.is_delivered() else "MLflow does not answer"
            except Exception as error:  # one run's trouble is not the others'
                told[folder] = explain(error, session)[0]
    return told


def be_recorder(orders: BufferedReader) -> int:
    """Be the recorder in a process that was forked for it."""
    warnings.simplefilter("ignore")
    be_silent()
    with Path(os.devnull).open("wb") as nothing:
        os.dup2(nothing.fileno(), sys.stdout.fileno())
    record(orders)
    return 0
