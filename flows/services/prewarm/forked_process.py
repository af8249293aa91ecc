"""Processes that are forked before they are needed, with all imported that they need. Imports no torch."""

import os
import signal
import subprocess
import sys
import time
import traceback
import warnings
from collections.abc import Callable
from io import BufferedReader
from typing import IO, Any, NoReturn

LOOK_SECONDS = 0.02


def fork() -> int:
    """Fork; nobody but the system's libraries, which know about it, has threads yet."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12 counts the threads of libraries, too
        return os.fork()


def end_with(work: Callable[..., int], *arguments: Any) -> NoReturn:
    """In a child: do that, and end with its exit code. What is behind the fork is the parent's."""
    code = 1
    try:
        code = work(*arguments)
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else 1
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


class ForkedProcess:
    """A child that waits for orders; what is asked of it as of a ``subprocess.Popen`` it answers alike.

    Fork it while this process has no threads of its own.
    """

    def __init__(self, be: Callable[[BufferedReader], int], others: "tuple[ForkedProcess, ...]" = ()):
        """
        Args:
            be: what the child does with its orders; gives its exit code. They end when this process does.
            others: spares that were forked before: their orders are not to be held open by this one.
        """
        orders, mine = os.pipe()
        self.args = getattr(be, "__name__", "spare")
        self.returncode: int | None = None
        self.pid = fork()
        if self.pid == 0:
            os.close(mine)
            for other in others:
                other.stdin.close()
            os.setsid()  # a Ctrl-C at the terminal is for the one who forked it
            os.dup2(os.open(os.devnull, os.O_RDONLY), 0)  # its orders are all that it reads
            end_with(be, os.fdopen(orders, "rb"))
        os.close(orders)
        self.stdin: IO[bytes] = os.fdopen(mine, "wb")

    def poll(self) -> int | None:
        if self.returncode is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.returncode = os.waitstatus_to_exitcode(status)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        until = None if timeout is None else time.monotonic() + timeout
        while (code := self.poll()) is None:
            if until is not None and time.monotonic() > until:
                raise subprocess.TimeoutExpired(self.args, timeout or 0)
            time.sleep(LOOK_SECONDS)
        return code

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)
