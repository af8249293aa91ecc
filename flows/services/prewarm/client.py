"""The command's side: hand a command over to the prewarmed process, if there is one."""

import contextlib
import json
import os
import signal
import socket
import sys
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import IO

from torchmill.components.files import current_umask
from torchmill.components.runs.folders import Runs
from torchmill.flows.services.prewarm.agreement import AGREED, ANSWER_SECONDS, GO, READY, digest, is_own_user
from torchmill.flows.services.prewarm.compatibility import start_conditions
from torchmill.flows.services.up_state import read_up_state

NEVER_HANDED_OVER = ("up", "join")
"""Commands that outlive the prewarmed process, and so run in their own."""
FORWARDED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGWINCH)
"""Signals that are sent on to the process that runs the command."""


def try_run(command: str, arguments: Sequence[str], runs: Runs) -> int | None:
    """Run a command in a fork of the prewarmed process, and end as it ends.

    Returns:
        The exit code, or None if the command has to run here.
    """
    if command in NEVER_HANDED_OVER or sys.platform != "linux":
        return None
    address = read_up_state(runs).prewarm
    if not address:
        return None
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(ANSWER_SECONDS)
        try:
            connection.connect(address)
            if not is_own_user(connection):
                return None
            answers = connection.makefile("rb")
            connection.sendall(digest(start_conditions()))
            if answers.readline() != AGREED:
                return None
            socket.send_fds(connection, [b"\n"], [0, 1, 2])
            connection.sendall(json.dumps(_order(arguments)).encode() + b"\n")
            if answers.readline() != READY:
                return None
            connection.sendall(GO)  # from here on the command runs there, and nowhere else
        except OSError:  # it has gone, is not ready yet, or does not answer
            return None
        connection.settimeout(None)
        return _exit_code(json.loads(answers.readline() or b"{}").get("child"), answers)


def _order(arguments: Sequence[str]) -> dict[str, object]:
    return {
        "arguments": list(arguments),
        "environment": dict(os.environ),
        "umask": current_umask(),
        "folder": str(Path.cwd()),
        "path": sys.path,
        "argv": sys.argv,
        "encodings": [sys.stdout.encoding, sys.stderr.encoding],
    }


def _exit_code(child: int | None, answers: IO[bytes]) -> int:
    """Forward signals until the child has ended, and return its exit code or die of the same signal.

    Args:
        child: process id; None if it died before it could be told, which counts as killed.
    """

    def forward(number: int, _: FrameType | None) -> None:
        with contextlib.suppress(ProcessLookupError):
            if child:
                os.kill(child, number)

    def stop(_number: int, _: FrameType | None) -> None:
        forward(signal.SIGSTOP, None)
        os.kill(os.getpid(), signal.SIGSTOP)
        forward(signal.SIGCONT, None)

    for number in FORWARDED:
        if signal.getsignal(number) != signal.SIG_IGN:  # as under nohup
            signal.signal(number, forward)
    signal.signal(signal.SIGTSTP, stop)
    code = json.loads(answers.readline() or b"{}").get("code", -signal.SIGKILL)
    if code < 0:
        if -code not in (signal.SIGKILL, signal.SIGSTOP):
            signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    return code
