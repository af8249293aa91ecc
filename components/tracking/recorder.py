"""The recorder: a second process that follows a run's journal and delivers it to MLflow."""

import contextlib
import gc
import importlib
import json
import os
import sys
import threading
import time
import warnings
from io import BufferedReader
from pathlib import Path

from torchmill.components.errors import UserError
from torchmill.components.files import append_to, locked
from torchmill.components.runs.checked_folders import CheckedFolders
from torchmill.components.runs.claim import is_alive
from torchmill.components.runs.folders import Runs
from torchmill.components.state_files import blank_damaged_lines, log_once, read_json, read_json_lines, set_aside
from torchmill.components.tracking.client import silence_mlflow
from torchmill.components.tracking.delivery import Delivery, Unopened
from torchmill.components.tracking.journal import JOURNAL, end_last_line
from torchmill.components.tracking.records import Progress, Record

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
    words = json.loads(order)
    journal, runs = Path(words["journal"]), Path(words["runs"])
    writer_gone = threading.Event()
    terminal = os.dup(sys.stderr.fileno())
    log = append_to(journal.with_name("recorder.log"))
    os.dup2(log.fileno(), sys.stderr.fileno())
    threading.Thread(target=_watch_writer, args=(orders, journal, terminal, writer_gone), daemon=True).start()
    with locked(journal.with_name("recorder.lock")):  # the recorder of a killed process may still be at work
        delivery = Delivery(journal, Runs(runs), words["token"])
        try:
            _follow(delivery, writer_gone)
        except Exception as error:  # the run's process shows it, whether MLflow, its database or the disk raised it
            reason = delivery.explain(error)
            delivery.receipt("refused", message=reason.message, remedy=reason.remedy, unreachable=reason.is_unreachable)
            raise
    deliver_pending(Runs(runs))


def _watch_writer(orders: BufferedReader, journal: Path, terminal: int, gone: threading.Event) -> None:
    """Wait for the end of the run's process, and say on its terminal if it was no end of a run.

    Args:
        terminal: descriptor of that process's stderr. It is closed then: whoever reads it waits for that.
    """
    while orders.read1():
        pass
    gone.set()
    records = read_json_lines(journal, Record)
    opened = [record["name"] for record in records if record["kind"] == "open"]
    if opened and records[-1]["kind"] != "end" and (journal.with_name("sent.json")).exists():
        words = (
            f"the process of run {opened[0]} died: it was killed, memory ran out, or native code crashed. "
            "The same command resumes it."
        )
        with contextlib.suppress(OSError):
            os.write(terminal, f"torchmill: {words}\n".encode())
    os.close(terminal)


def _follow(delivery: Delivery, writer_gone: threading.Event) -> None:
    is_writer_alive = True
    while is_writer_alive and not (delivery.ended and delivery.is_complete):
        is_writer_alive = not writer_gone.wait(0.05)
        delivery.read()
        delivery.deliver()
    deadline = time.monotonic() + LINGER_SECONDS
    while not delivery.is_complete and time.monotonic() < deadline:
        delivery.deliver(gather=False)
        time.sleep(0.05)
    if delivery.is_complete and not delivery.ended:
        delivery.close_as_killed()


def pending_runs(runs: Runs, folders: CheckedFolders | None = None) -> list[Path]:
    """Return the folders of dead or ended runs whose records, or whose end, MLflow lacks.

    Args:
        folders: the folders to look at; None for all.
    """
    journals = [folder / JOURNAL for folder in folders.changed] if folders else runs.work.glob(f"*/{JOURNAL}")
    pending = []
    statuses = {path: path.stat() for path in journals if path.is_file()}
    for journal, status in sorted(statuses.items(), key=lambda item: item[1].st_mtime):
        progress = read_json(journal.with_name("sent.json"), Progress) or Progress()
        if progress.to >= status.st_size and progress.status:
            continue
        if folders:
            folders.doubt(journal)
        try:
            if not is_alive(journal.parent):
                pending.append(journal.parent)
        except UserError as error:  # the trouble of one run must not stop the others
            log_once(journal, "%s", error)
    return pending


def mend_journals(folders: CheckedFolders, dry_run: bool) -> dict[Path, int]:
    """Blank the damaged lines in the journals of runs that nobody works on; return their number by folder."""
    counts = {}
    for folder in folders.changed:
        if not (folder / JOURNAL).exists():
            continue
        with locked(folder / "recorder.lock", wait=False) as is_free:
            is_idle = is_free and not is_alive(folder)
            if is_idle and (count := blank_damaged_lines(folder / JOURNAL, Record, dry_run)):
                counts[folder] = count
        if not is_idle or folder in counts:
            folders.doubt(folder)
    return counts


def deliver_pending(runs: Runs, folders: CheckedFolders | None = None) -> dict[Path, str]:
    """Deliver the journals of ``pending_runs``; set a run to KILLED if its process died without ending it.

    Returns:
        By folder, the run's status, or why it can't be delivered.
    """
    outcomes: dict[Path, str] = {}
    for folder in pending_runs(runs, folders):
        with locked(folder / "recorder.lock", wait=False) as is_free:
            if is_alive(folder):
                continue  # it was resumed meanwhile
            outcomes[folder] = _deliver_all(folder, runs) if is_free else "another process is sending it"
    return outcomes


def _deliver_all(folder: Path, runs: Runs) -> str:
    end_last_line(folder / JOURNAL)
    delivery = Delivery(folder / JOURNAL, runs)
    try:
        delivery.read()
        delivery.deliver(gather=False)
        if delivery.is_complete and not delivery.ended:
            delivery.close_as_killed()
    except Unopened as error:
        set_aside(delivery.journal, error.message)  # otherwise each command would try again
        return error.message
    except Exception as error:  # the trouble of one run must not stop the others
        return delivery.explain(error).message
    return delivery.sent.status if delivery.is_complete else "MLflow does not answer"
