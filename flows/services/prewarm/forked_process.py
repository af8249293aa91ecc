"""Processes that are forked before they are needed, with everything imported that they need. Imports no torch."""

import os
import signal
import subprocess
import time
import traceback
import warnings
from collections.abc import Callable
from io import BufferedReader
from typing import IO, Any, NoReturn

from torchmill.flows.services.interpreter import leave_at_once

POLL_SECONDS = 0.02


def fork() -> int:
    """Fork this process, which has no threads but those of libraries that support it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12 counts the threads of libraries, too
        return os.fork()


def end_with(work: Callable[..., int], *arguments: Any) -> NoReturn:
    """Run the work of a forked child and end with its exit code, which keeps it out of the parent's code."""
    code = 1
    try:
        code = work(*arguments)
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else 1
    except BaseException:
        traceback.print_exc()
    finally:
        leave_at_once(code)


class ForkedProcess:
    """A child that waits for its orders on a pipe. Offers the parts of ``subprocess.Popen`` that we use.

    Fork it before this process starts threads.

    Example:
        >>> training = ForkedProcess(worker.wait_for_orders)  # doctest: +SKIP
        >>> training.stdin.write(b"/path/to/a/job\\n")  # doctest: +SKIP
    """

    def __init__(self, work: Callable[[BufferedReader], int], siblings: "tuple[ForkedProcess, ...]" = ()):
        """
        Args:
            work: reads the orders, which end when this process does, and returns the exit code.
            siblings: processes that were forked before. Their pipes are closed in this one: it must not keep them open.
        """
        orders, writing_end = os.pipe()
        self.args = getattr(work, "__name__", "forked process")
        self.returncode: int | None = None
        self.pid = fork()
        if self.pid == 0:
            os.close(writing_end)
            for sibling in siblings:
                sibling.stdin.close()
            os.setsid()  # a Ctrl-C at the terminal is for the parent
            os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
            end_with(work, os.fdopen(orders, "rb"))
        os.close(orders)
        self.stdin: IO[bytes] = os.fdopen(writing_end, "wb")

    def poll(self) -> int | None:
        if self.returncode is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.returncode = os.waitstatus_to_exitcode(status)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        deadline = None if timeout is None else time.monotonic() + timeout
        while (code := self.poll()) is None:
            if deadline is not None and time.monotonic() > deadline:
                raise subprocess.TimeoutExpired(self.args, timeout or 0)
            time.sleep(POLL_SECONDS)
        return code

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)
