"""The recorder, as the run's process sees it: start it, hand it a journal, wait for its receipts."""

import contextlib
import json
import os
import subprocess
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torchmill.components.errors import Unreachable, UserError
from torchmill.components.processes import Process, start_python
from torchmill.components.runs.folders import Runs
from torchmill.components.state_files import read_json_lines
from torchmill.components.tracking.client import NO_TELEMETRY
from torchmill.components.tracking.records import Receipt as ReceiptShape

AWAY_SECONDS = 10.0
"""Longest wait for an MLflow that has stopped answering."""

AWAY_AGAIN_SECONDS = 1.0
"""Longest wait in a run that has waited ``AWAY_SECONDS`` before."""

MAX_RESTARTS = 3
"""Number of new recorders that one wait starts in place of dead ones."""

Receipt = dict[str, Any]


class Recorder:
    """A process that delivers a journal to MLflow. Started early, it imports MLflow meanwhile."""

    def __init__(self, process: Process | None = None) -> None:
        self.token = uuid.uuid4().hex
        """Sign of this recorder's receipts; another process may have had the same id before."""
        self.process = process or start_python(
            *("-m", "torchmill.components.tracking"),
            environment={**os.environ, **NO_TELEMETRY, "PYTHONWARNINGS": "ignore"},
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            # Ctrl-C in a terminal reaches the whole process group, and the recorder has yet to close the run.
            start_new_session=True,
        )

    def follow(self, journal: Path, runs: Runs) -> None:
        """Begin to record a journal. When this process ends, the recorder closes the run."""
        assert self.process.stdin
        order = {"journal": str(journal), "runs": str(runs.folder), "token": self.token}
        with contextlib.suppress(BrokenPipeError):  # it has died: the next wait notices
            self.process.stdin.write(json.dumps(order).encode() + b"\n")
            self.process.stdin.flush()

    def dismiss(self) -> None:
        """Close the pipe: the recorder delivers the rest and exits."""
        assert self.process.stdin
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.close()


_warm: Recorder | None = None
"""Recorder that has no journal yet."""

_recorders: dict[Path, Recorder] = {}
"""Recorders of the runs that this process has opened, by the run's folder."""

_away: set[Path] = set()
"""Folders of the runs that have waited for their MLflow in vain."""


def warm_up() -> None:
    """Start the recorder of the run that this process is about to open: it imports MLflow meanwhile."""
    global _warm
    _warm = _warm or Recorder()


def adopt_recorder(process: Process) -> None:
    """Use a forked process as the recorder of the run that this process is about to open."""
    global _warm
    _warm = Recorder(process)


def cool_down() -> None:
    """Dismiss the recorder that ``warm_up`` started: there is no run to record."""
    global _warm
    if _warm:
        _warm.dismiss()
    _warm = None


def start_recorder(folder: Path, runs: Runs) -> None:
    """Start a recorder that follows the journal in a run's folder, or use the warm one."""
    global _warm
    recorder, _warm = _warm or Recorder(), None
    _recorders[folder] = recorder
    recorder.follow(folder / "journal.jsonl", runs)


def dismiss_recorder(folder: Path) -> None:
    """Dismiss a run's recorder."""
    recorder = _recorders.pop(folder, None)
    if recorder:
        recorder.dismiss()


def wait_for_answer(folder: Path, ask: str, timeout_seconds: float) -> Receipt | None:
    """Wait for the receipt with an id, as ``wait_for_receipt`` does."""
    return wait_for_receipt(folder, lambda receipt: receipt.get("ask") == ask, timeout_seconds)


def wait_for_receipt(folder: Path, matches: Callable[[Receipt], bool], timeout_seconds: float) -> Receipt | None:
    """Wait until the recorder has written a receipt that matches, and restart a recorder that dies.

    Args:
        timeout_seconds: the longest wait without any progress.

    Returns:
        The receipt; None if MLflow has stopped answering.

    Raises:
        UserError: MLflow refused a record, or recorders keep dying.
        Unreachable: MLflow made no progress in time.
    """
    started = progressed = time.monotonic()
    progress = b""
    restarts = 0
    while True:
        recorder = _recorders[folder]
        is_dead = recorder.process.poll() is not None  # before the receipts are read: a dead process writes no more
        receipts = read_json_lines(folder / "receipts.jsonl", ReceiptShape)
        for receipt in receipts:
            if receipt["receipt"] == "refused" and receipt.get("recorder") == recorder.token:
                kind = Unreachable if receipt["unreachable"] else UserError
                raise kind(receipt["message"], receipt["remedy"])
            if matches(receipt):
                return receipt
        now = time.monotonic()
        if is_dead:
            if restarts == MAX_RESTARTS:
                raise UserError("The process that records the run in MLflow died.", f"See {folder / 'recorder.log'}.")
            restarts += 1
            start_recorder(folder, Runs(folder.parent.parent))
        if _is_away(receipts):
            if now - started > (AWAY_AGAIN_SECONDS if folder in _away else min(AWAY_SECONDS, timeout_seconds)):
                _away.add(folder)
                return None
        elif now - progressed > timeout_seconds:
            raise Unreachable(
                f"MLflow did not answer within {timeout_seconds:.0f} s.", f"See {folder / 'recorder.log'}."
            )
        if (latest := _progress(folder)) != progress:
            progressed, progress = now, latest
        time.sleep(0.02)


def _progress(folder: Path) -> bytes:
    """Return the recorder's progress as it is on disk; empty before it has sent anything."""
    try:
        return (folder / "sent.json").read_bytes()
    except OSError:
        return b""


def _is_away(receipts: list[Receipt]) -> bool:
    """Return whether MLflow has taken the run, and doesn't answer now."""
    names = [receipt["receipt"] for receipt in receipts]
    changes = [name for name in names if name in ("away", "back")]
    return "opened" in names and changes[-1:] == ["away"]
