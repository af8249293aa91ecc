"""Processes that train, and the folder by which they are told what to do; needs no torch, to be quick at hand.

In the folder lie what is to be done, what the leader tells, what went wrong, a file that says to stop, a lock that is
held as long as anybody waits for the result, and what torch's launcher prints.
"""

import contextlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Generator
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torchmill.components.files import locked, write_text
from torchmill.components.processes import Process, start_python
from torchmill.components.training.config import TrainConfig

JOB, MESSAGES, MISTAKE, STOP, PARENT, LOG = "job.json", "messages", "mistake.json", "stop", "parent.lock", "log"
PATHS = "paths.json"
"""Where modules are looked for: as in the process that asked."""

WORKER = ("-m", "torchmill.components.training.distributed.worker")
RESTARTS = 3
"""Of all processes of a group, where one has died; they go on from the newest checkpoint."""
LEAVE_SECONDS = 30.0
BUSY = 0.75
"""Share of the processors that have been at work of late, from which on threads that wait for each other leave them to
others. They spin otherwise: a tenth faster where nobody else computes, and ten times slower where somebody does."""


@dataclass(frozen=True)
class Launched:
    """What was started: a process that trains alone, or torch's launcher, which has several."""

    folder: Path
    process: Process


_started: Process | None = None
"""A process that waits on its stdin for the folder of its job."""

_ahead: ContextVar[Launched | None] = ContextVar("_ahead", default=None)


def adopt_process(process: Process) -> None:
    """Train in a process that was started before, instead of a new one."""
    global _started
    _started = process


@contextlib.contextmanager
def started_ahead(config: TrainConfig) -> Generator[None]:
    """Have a process import torch, which takes seconds, while what comes before a training is done."""
    if _waiting() or config.machines > 1 or config.processes not in ("1", "auto"):
        yield  # there is one, or torch's launcher will start its own
        return
    with launched(list(WORKER)) as waiting:
        token = _ahead.set(waiting)
        try:
            yield
        finally:
            _ahead.reset(token)


@contextlib.contextmanager
def one_process() -> Generator[Launched]:
    """Give a process that waits for a job: the one that was started ahead, if it has none yet, or a new one."""
    if waiting := _waiting():
        yield waiting
    else:
        with launched(list(WORKER)) as started:
            yield started


def _waiting() -> Launched | None:
    started = _ahead.get()
    return started if started and started.process.poll() is None and not (started.folder / JOB).exists() else None


@contextlib.contextmanager
def launched(
    arguments: list[str], environment: dict[str, str] | None = None, place: Path | None = None, quietly: bool = False
) -> Generator[Launched]:
    """Start Python on ``arguments`` and a new folder; it is ended when the block is left before it is done.

    Args:
        environment: over that of this process.
        place: where the folder is made; none is the system's place for what is temporary.
        quietly: what it prints goes into a file there.
    """
    around = os.environ | (environment or {})
    if is_busy := os.getloadavg()[0] > BUSY * (os.cpu_count() or 1):
        around.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    with tempfile.TemporaryDirectory(prefix="torchmill-", dir=place) as made, contextlib.ExitStack() as held:
        folder = Path(made)
        held.enter_context(locked(folder / PARENT))
        write_text(folder / PATHS, json.dumps([path or str(Path.cwd()) for path in sys.path]))
        output: Any = held.enter_context((folder / LOG).open("wb")) if quietly else None
        plain = arguments == list(WORKER) and environment is None and not quietly and not is_busy
        process = (_take_started(folder) if plain else None) or start_python(
            *(*arguments, str(folder)),
            environment=around,
            stdout=output,
            stderr=output,
            start_new_session=True,  # a Ctrl-C at the terminal is ours to answer
        )
        try:
            yield Launched(folder, process)
        finally:
            if process.poll() is None:
                process.terminate()  # torch's launcher passes it on
                try:
                    process.wait(LEAVE_SECONDS)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()


def _take_started(folder: Path) -> Process | None:
    """Send the folder of a job to the process that was started before, if there is one."""
    global _started
    process, _started = _started, None
    if process is None or process.poll() is not None:
        return None
    assert process.stdin
    process.stdin.write(f"{folder}\n".encode())
    process.stdin.flush()
    return process
