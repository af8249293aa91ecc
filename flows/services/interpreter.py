"""Shortcuts around the start and the end of Python, for processes that import torch."""

import atexit
import gc
import os
import sys
import threading
from collections.abc import Generator
from contextlib import contextmanager
from typing import NoReturn

_skips_exit_handlers = False


def skip_exit_handlers() -> None:
    """Make ``leave`` end the process at once: its exit handlers would wait in vain."""
    global _skips_exit_handlers
    _skips_exit_handlers = True


def leave(code: int) -> NoReturn:
    """End this process as Python does, but leave its memory to the system.

    Python waits for threads, runs exit handlers (Prefect sends its last logs in one) and flushes streams. After that
    it would destroy every object, which takes two seconds with torch and Prefect imported.
    """
    if "torch" not in sys.modules:
        sys.exit(code)
    if _skips_exit_handlers:
        leave_at_once(code)
    threading._shutdown()  # ty: ignore[missing-attribute]
    atexit._run_exitfuncs()
    leave_at_once(code)


def leave_at_once(code: int) -> NoReturn:
    """End this process without exit handlers, which a forked process would run for its parent."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


@contextmanager
def collection_paused() -> Generator[None]:
    """Import without garbage collection: it takes a fifth of the time, and imported modules stay."""
    gc.disable()
    try:
        yield
        gc.freeze()
    finally:
        gc.enable()


def freeze() -> None:
    """Keep all objects out of garbage collection, so that forked processes go on sharing their pages."""
    gc.collect()
    gc.freeze()
