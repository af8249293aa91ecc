"""End everything that a test process started, however the test process itself ends.

Each test process puts a mark of its own into its environment, which all that it starts inherits. A watcher waits for
the test process to end and then kills whatever still bears the mark, daemons in sessions of their own included.
"""

import os
import signal
import subprocess
import sys
import uuid
from collections.abc import Iterator
from contextlib import suppress

import psutil

MARK = "STARTED_BY_TESTS"


def use_default_signals() -> None:
    """Let what this process starts begin with default signal handling, also in a background job.

    A shell has its background jobs ignore SIGINT and SIGQUIT, ``nohup`` SIGHUP, and a process that is started inherits
    what is ignored. A handler isn't inherited, so this process goes on ignoring SIGQUIT and SIGHUP by one.
    """
    for number in (signal.SIGQUIT, signal.SIGHUP):
        if signal.getsignal(number) == signal.SIG_IGN:
            signal.signal(number, lambda *_: None)
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def watch_this_process() -> None:
    """Mark this process's environment and start the watcher that outlives it."""
    unmarked = {name: value for name, value in os.environ.items() if name != MARK}
    mark = os.environ[MARK] = uuid.uuid4().hex
    subprocess.Popen(
        [sys.executable, "-P", __file__, str(os.getpid()), mark],
        env=unmarked,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    ).returncode = 0  # not to be waited for: it ends after this process


def kill(processes: list[psutil.Process]) -> None:
    """Kill processes and wait until they are gone."""
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(processes, timeout=10)


def _marked(mark: str) -> Iterator[psutil.Process]:
    for process in psutil.process_iter():
        with suppress(psutil.NoSuchProcess, psutil.AccessDenied):
            if process.environ().get(MARK) == mark:
                yield process


def _watch(pid: int, mark: str) -> None:
    with suppress(psutil.NoSuchProcess):
        psutil.Process(pid).wait()
    while survivors := list(_marked(mark)):  # again, for those that were being started meanwhile
        kill(survivors)


if __name__ == "__main__":
    _watch(int(sys.argv[1]), sys.argv[2])
