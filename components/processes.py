"""Start Python processes, count the processors that they may use, and import ahead. Imports no torch."""

import importlib
import math
import os
import subprocess
import sys
import threading
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import IO, Any, Protocol

from torchmill.components.errors import UserError

LARGEST_KEPT_BLOCK, MOST_KEPT_BYTES = 128 << 20, 512 << 20
"""Limits of the memory that a process keeps: the size of a block, and the free bytes at the end of its heap."""

LEAST_ADDRESS_SPACE = 4_500_000_000
"""Bytes of address space. A training maps 4.9 GB at its peak, with torch 2.15 on a CPU, and less if it gets less."""


class Process(Protocol):
    """The part of ``subprocess.Popen`` that we use, so that a forked process can stand in for one."""

    pid: int
    returncode: int | None

    @property
    def stdin(self) -> IO[bytes] | None: ...

    def poll(self) -> int | None: ...
    def wait(self, timeout: float | None = None) -> int: ...
    def terminate(self) -> None: ...
    def kill(self) -> None: ...


def import_ahead(modules: Iterable[str]) -> None:
    """Import modules in a thread of their own, while this process computes or waits.

    Example:
        >>> import_ahead(("json", "csv"))
    """

    def work() -> None:
        for name in modules:
            importlib.import_module(name)

    threading.Thread(target=work, daemon=True).start()


def python_command(*arguments: str) -> list[str]:
    """Return a command for this Python that doesn't search the current folder for modules.

    With ``-m`` alone, ``uvicorn.py`` or ``select.py`` in the user's folder would be imported instead of the library.

    Example:
        >>> python_command("-m", "torchmill")[1:]
        ['-P', '-m', 'torchmill']
    """
    return [sys.executable, "-P", *arguments]


def start_python(
    *arguments: str, environment: Mapping[str, str] | None = None, inherit_safe_path: bool = True, **options: Any
) -> "subprocess.Popen[bytes]":
    """Start this Python in the background, with an empty stdin and without the current folder on its path.

    Args:
        environment: the process's whole environment; None inherits this process's.
        inherit_safe_path: the Pythons that it starts leave out the current folder as well.
        options: arguments of ``subprocess.Popen``.
    """
    variables = dict(os.environ if environment is None else environment)
    if inherit_safe_path:
        variables["PYTHONSAFEPATH"] = "1"
    options.setdefault("stdin", subprocess.DEVNULL)
    process: Any = subprocess.Popen(python_command(*arguments), env=variables, **options)
    return process


def run_python(*arguments: str, **options: Any) -> int:
    """Start this Python as ``start_python`` does, wait for its end and return its exit code."""
    return start_python(*arguments, **options).wait()


def keep_freed_memory() -> None:
    """Keep in this process the memory that tensors free, instead of returning it to the system at each step.

    glibc returns the end of its heap and every large block to the system, unless earlier blocks happen to have raised
    its thresholds (mallopt(3)). The next step then waits for the same pages again, up to a quarter of its time.
    """
    if sys.platform != "linux":
        return
    import ctypes

    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt:  # other C libraries lack it
        M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
        mallopt(M_MMAP_THRESHOLD, LARGEST_KEPT_BLOCK)
        mallopt(M_TRIM_THRESHOLD, MOST_KEPT_BYTES)


def check_address_space() -> None:
    """Refuse a limit of the address space (``ulimit -v``) in which torch and numpy can't work.

    Below it, numpy's BLAS asks the system for memory for ever, and torch's libraries abort or can't be loaded.

    Raises:
        UserError: the limit is too low.
    """
    import resource

    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    if limit != resource.RLIM_INFINITY and limit < LEAST_ADDRESS_SPACE:
        raise UserError(
            f"The address space is limited to {limit / 1e9:.1f} GB (ulimit -v), and torch needs "
            f"{LEAST_ADDRESS_SPACE / 1e9:.1f} GB of it, most of which takes no memory.",
            "Raise that limit. To limit memory itself: systemd-run --scope -p MemoryMax=4G torchmill …",
        )


def is_short_of_memory(error: BaseException) -> bool:
    """Return True if an error says that the system gives no memory."""
    texts = ("failed to map segment", "cannot allocate memory", "Cannot allocate memory", "can't allocate memory")
    is_told = isinstance(error, ImportError | OSError | RuntimeError) and any(text in str(error) for text in texts)
    return isinstance(error, MemoryError) or is_told


def processors() -> int:
    """Return the number of processors that affinity and cgroup let this process use."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:  # cgroup v2: "max 100000" or "150000 100000", microseconds of processor time per period
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
    except (OSError, ValueError):
        return allowed
    return allowed if quota == "max" else max(1, min(allowed, math.ceil(int(quota) / int(period))))
