"""Start worker processes, each with a folder that holds its job and its messages. Imports no torch, to be fast."""

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Generator
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torchmill.components.files import temporary_folder, write_text
from torchmill.components.processes import Process, start_python
from torchmill.components.training.config import TrainConfig

JOB = "job.json"
"""File of the job, which the worker waits for."""
MESSAGES = "messages"
"""File of the main worker's messages: one JSON object per line."""
ERROR = "error.json"
"""File of the error that ended a worker."""
STOP = "stop"
"""File that asks the workers to stop."""
"""Lock that the parent holds; workers exit when it is released."""
LOG = "log"
"""File of the output of torch's launcher."""
PATHS = "paths.json"
"""File of the parent's ``sys.path``, so that a worker finds the same modules."""

WORKER = ("-m", "torchmill.components.training.distributed")
RESTARTS = 3
"""Restarts of a group after one of its processes died; each resumes from the newest checkpoint."""
EXIT_SECONDS = 30.0
"""Seconds between asking a process to end and killing it."""
BUSY_LOAD = 0.75
"""Load per processor above which waiting threads sleep instead of spinning. Spinning is a tenth faster on an idle
machine, and ten times slower on a busy one."""


@dataclass(frozen=True)
class Worker:
    """A started process, which trains alone or is torch's launcher of several, and its folder."""

    folder: Path
    process: Process


_started: Process | None = None
"""A process that waits on its stdin for the folder of its job."""

_started_ahead: ContextVar[Worker | None] = ContextVar("_started_ahead", default=None)


def adopt_process(process: Process) -> None:
    """Train in a process that was started before, instead of a new one."""
    global _started
    _started = process


@contextlib.contextmanager
def started_ahead(config: TrainConfig) -> Generator[None]:
    """Start a worker that imports torch, which takes seconds, while earlier steps run."""
    if _idle_worker() or config.machines > 1 or config.processes not in ("1", "auto"):
        yield  # a worker already waits, or torch's launcher will start its own
        return
    with launched(list(WORKER)) as worker:
        token = _started_ahead.set(worker)
        try:
            yield
        finally:
            _started_ahead.reset(token)


@contextlib.contextmanager
def one_worker() -> Generator[Worker]:
    """Yield a worker that waits for a job: the one started ahead if it is still free, or a new one."""
    if worker := _idle_worker():
        yield worker
    else:
        with launched(list(WORKER)) as worker:
            yield worker


def _idle_worker() -> Worker | None:
    worker = _started_ahead.get()
    return worker if worker and worker.process.poll() is None and not (worker.folder / JOB).exists() else None


@contextlib.contextmanager
def launched(
    arguments: list[str], environment: dict[str, str] | None = None, parent: Path | None = None, log: bool = False
) -> Generator[Worker]:
    """Start Python on ``arguments`` and a new folder; leaving the block terminates it.

    Args:
        environment: variables to add to this process's.
        parent: folder for the new folder; None is the system's temporary one.
        log: write the process's output into a file of the folder.
    """
    variables = os.environ | (environment or {})
    is_busy = os.getloadavg()[0] > BUSY_LOAD * (os.cpu_count() or 1)
    if must_yield := is_busy and "OMP_WAIT_POLICY" not in variables:
        variables["OMP_WAIT_POLICY"] = "PASSIVE"
    with temporary_folder(parent) as folder, contextlib.ExitStack() as stack:
        write_text(folder / PATHS, json.dumps([path or str(Path.cwd()) for path in sys.path]))
        output: Any = stack.enter_context((folder / LOG).open("wb")) if log else None
        plain = arguments == list(WORKER) and environment is None and not log and not must_yield
        process = (_take_started(folder) if plain else None) or start_python(
            *(*arguments, str(folder)),
            environment=variables,
            stdout=output,
            stderr=output,
            start_new_session=True,  # Ctrl-C at the terminal goes to this process alone
        )
        try:
            yield Worker(folder, process)
        finally:
            if process.poll() is None:
                process.terminate()  # torch's launcher passes it on
                try:
                    process.wait(EXIT_SECONDS)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()


def _take_started(folder: Path) -> Process | None:
    """Send the folder of a job to the process that was started before, if it is alive."""
    global _started
    process, _started = _started, None
    if process is None or process.poll() is not None:
        return None
    assert process.stdin
    process.stdin.write(f"{folder}\n".encode())
    process.stdin.flush()
    return process
