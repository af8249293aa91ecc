"""The prewarmed process: import everything, then fork for each command that is handed over."""

import atexit
import contextlib
import importlib
import json
import os
import random
import select
import signal
import socket
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NoReturn, Protocol

from torchmill.flows.services.interpreter import freeze
from torchmill.flows.services.prewarm.agreement import (
    AGREED,
    ANSWER_SECONDS,
    DIGEST_BYTES,
    GO,
    READY,
    digest,
    is_own_user,
)
from torchmill.flows.services.prewarm.client import FORWARDED
from torchmill.flows.services.prewarm.compatibility import code_state, start_conditions
from torchmill.flows.services.prewarm.forked_process import ForkedProcess, end_with, fork
from torchmill.flows.services.prewarm.imports import import_all, import_learned, learn
from torchmill.flows.services.processes import dies_with_parent

POLL_SECONDS = 0.02
CODE_CHECK_SECONDS = 2.0
"""Seconds between two looks at whether source or libraries have changed."""
RUNS_TRAINING = ("train", "reproduce")
"""Commands that need a training process and a recorder."""


class Main(Protocol):
    """``torchmill.flows.cli.main.main``."""

    def __call__(self, arguments: Sequence[str], *, may_hand_over: bool) -> NoReturn: ...


def serve(address: Path, learned: Path, main: Main) -> None:
    """Become the commands that come in, until source or libraries change.

    Args:
        address: path of the socket to listen on.
        learned: file with the names of further modules that commands have imported.
        main: runs a command line and leaves.
    """
    conditions = digest(start_conditions())
    code = code_state()
    import_all()
    import_learned(learned)
    freeze()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # children leave no zombies
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(address))
        listener.listen()
        listener.settimeout(CODE_CHECK_SECONDS)
        while code == code_state():
            if import_learned(learned):
                freeze()
            with contextlib.suppress(TimeoutError):
                connection, _ = listener.accept()
                with connection:
                    if is_own_user(connection) and fork() == 0:
                        listener.close()
                        end_with(_run_command, connection, conditions, partial(_become, learned, main))


def _run_command(
    connection: socket.socket, conditions: bytes, become: Callable[[dict[str, Any], Sequence[int]], NoReturn]
) -> int:
    """Fork a child that becomes the command, and report how it ends. Kill it if the command's process has gone."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    os.setsid()  # the end of `up` does not end this
    connection.settimeout(5 * ANSWER_SECONDS)
    try:
        order, streams = _receive_order(connection, conditions)
    except (OSError, ValueError):  # it lost patience and runs by itself, or died while it wrote
        return 0
    if not order:
        return 0
    child = fork()
    if child == 0:
        connection.close()
        end_with(become, order, streams)
    for stream in streams:
        os.close(stream)
    connection.sendall(json.dumps({"child": child}).encode() + b"\n")
    while not (status := os.waitpid(child, os.WNOHANG))[0]:
        if select.select([connection], [], [], POLL_SECONDS)[0]:  # closed: it sends nothing more
            os.kill(child, signal.SIGKILL)
    with contextlib.suppress(OSError):
        connection.sendall(json.dumps({"code": os.waitstatus_to_exitcode(status[1])}).encode() + b"\n")
    return 0


def _receive_order(connection: socket.socket, conditions: bytes) -> tuple[dict[str, Any], list[int]]:
    """Return an order and its streams, once the command's process relies on this one; else an empty order.

    Raises:
        OSError: the command's process has gone, or does not answer.
    """
    if connection.recv(DIGEST_BYTES, socket.MSG_WAITALL) != conditions:
        return {}, []
    connection.sendall(AGREED)
    _, streams, _, _ = socket.recv_fds(connection, 1, 3)
    lines = connection.makefile("rb")
    order = json.loads(lines.readline() or b"{}")
    connection.sendall(READY)
    return (order, streams) if len(streams) == 3 and lines.readline() == GO else ({}, [])


def _become(learned: Path, main: Main, order: dict[str, Any], streams: Sequence[int]) -> NoReturn:
    """Adopt the command's streams, environment, folder and signals, and run it."""
    dies_with_parent(signal.SIGKILL)
    _open_streams(streams, *order["encodings"])
    os.environ.clear()
    os.environ.update(order["environment"])
    os.umask(order["umask"])
    os.chdir(order["folder"])
    sys.path[:], sys.argv[:] = order["path"], order["argv"]
    for number in (*FORWARDED, signal.SIGTSTP):
        signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    atexit.register(learn, learned, set(sys.modules))
    random.seed()  # otherwise all children draw the same numbers
    importlib.import_module("numpy").random.seed()
    if set(RUNS_TRAINING) & set(order["arguments"]):
        _fork_helpers()
    main(order["arguments"], may_hand_over=False)


def _open_streams(streams: Sequence[int], output_encoding: str, error_encoding: str) -> None:
    """Open the three standard streams anew: those of the parent know facts about other files, as whether they seek."""
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    for name, number, mode, encoding, errors in (
        ("stdin", 0, "r", None, None),
        ("stdout", 1, "w", output_encoding, None),
        ("stderr", 2, "w", error_encoding, "backslashreplace"),
    ):
        buffering = 1 if number == 2 or os.isatty(number) else -1
        stream = open(number, mode, buffering, encoding, errors, closefd=False)  # noqa: SIM115  open until the end
        setattr(sys, name, stream)
        setattr(sys, f"__{name}__", stream)


def _fork_helpers() -> None:
    """Fork the processes that a training starts, which would have to import everything again."""
    from torchmill.components import tracking
    from torchmill.components.training.distributed import launch, worker

    training = ForkedProcess(worker.wait_for_folder)
    launch.adopt_process(training)
    tracking.adopt_recorder(ForkedProcess(tracking.run_recorder, (training,)))
