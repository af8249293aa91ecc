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

from torchmill.components.files import append_to, locked
from torchmill.components.runs.claim import is_alive
from torchmill.components.runs.folders import Runs
from torchmill.components.tracking.client import silence_mlflow
from torchmill.components.tracking.delivery import Delivery
from torchmill.components.tracking.journal import read_progress

LINGER_SECONDS = 60.0
"""Longest time that the recorder keeps trying after the run's process has gone."""

RECORDER_IMPORTS = ("mlflow", "mlflow.onnx", "mlflow.pyfunc")
"""Heavy modules that the recorder needs."""


def run_recorder(orders: BufferedReader) -> int:
    """Run the recorder in a process that was forked for it; return the exit code."""
    warnings.simplefilter("ignore")
    silence_mlflow()
    with Path(os.devnull).open("wb") as devnull:
        os.dup2(devnull.fileno(), sys.stdout.fileno())
    record(orders)
    return 0


def record(orders: BufferedReader) -> None:
    """Follow a journal to its end, or until its writer has died.

    Args:
        orders: a pipe from the run's process, with one line that names the journal. It closes with that process.
    """
    gc.disable()  # collecting garbage takes a fifth of the imports' time
    for name in RECORDER_IMPORTS:  # now, while the run's process imports torch
        importlib.import_module(name)
    gc.enable()
    order = orders.readline()
    if not order:
        return  # the process ended before it opened a run
    journal, runs = (Path(json.loads(order)[key]) for key in ("journal", "runs"))
    log = append_to(journal.with_name("recorder.log"))
    os.dup2(log.fileno(), sys.stderr.fileno())
    with locked(journal.with_name("recorder.lock")):  # the recorder of a killed process may still be at work
        delivery = Delivery(journal, Runs(runs))
        try:
            _follow(delivery, orders)
        except Exception as error:  # the run's process shows it, whether MLflow, its database or the disk raised it
            reason = delivery.explain(error)
            delivery.receipt("refused", message=reason.message, remedy=reason.remedy, unreachable=reason.is_unreachable)
            raise
    deliver_pending(Runs(runs))


def _follow(delivery: Delivery, orders: BufferedReader) -> None:
    is_writer_alive = True
    while is_writer_alive and not (delivery.ended and delivery.is_complete):
        ready, _, _ = select.select([orders], [], [], 0.05)
        is_writer_alive = not ready or bool(orders.read1())
        delivery.read()
        delivery.deliver()
    deadline = time.monotonic() + LINGER_SECONDS
    while not delivery.is_complete and time.monotonic() < deadline:
        delivery.deliver(gather=False)
        time.sleep(0.05)
    if delivery.is_complete and not delivery.ended:
        delivery.close_as_killed()


def pending_runs(runs: Runs) -> list[Path]:
    """Return the folders of dead or ended runs whose records, or whose end, MLflow lacks."""
    folders = []
    for journal in sorted(runs.work.glob("*/journal.jsonl"), key=lambda path: path.stat().st_mtime):
        progress = json.loads(read_progress(journal.parent) or '{"to": 0, "status": ""}')
        is_behind = progress["to"] < journal.stat().st_size or not progress["status"]
        if is_behind and not is_alive(journal.parent):
            folders.append(journal.parent)
    return folders


def deliver_pending(runs: Runs) -> dict[Path, str]:
    """Deliver the journals of ``pending_runs``; set a run to KILLED if its process died without ending it.

    Returns:
        By folder, the run's status, or why it can't be delivered.
    """
    outcomes: dict[Path, str] = {}
    for folder in pending_runs(runs):
        with locked(folder / "recorder.lock", wait=False) as is_free:
            if is_alive(folder):
                continue  # it was resumed meanwhile
            outcomes[folder] = _deliver_all(folder, runs) if is_free else "another process is sending it"
    return outcomes


def _deliver_all(folder: Path, runs: Runs) -> str:
    delivery = Delivery(folder / "journal.jsonl", runs)
    try:
        delivery.read()
        delivery.deliver(gather=False)
        if delivery.is_complete and not delivery.ended:
            delivery.close_as_killed()
    except Exception as error:  # the trouble of one run must not stop the others
        return delivery.explain(error).message
    return delivery.sent["status"] if delivery.is_complete else "MLflow does not answer"
