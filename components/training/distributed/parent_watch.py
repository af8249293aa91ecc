"""End a worker whose parent has died. Imports no torch: the watch begins before the seconds that its import takes."""

import os
import signal
import threading
from pathlib import Path

from torchmill.components.files import IN_USE, locked


def watch_parents(*folders: Path) -> None:
    """End this process, and torch's launcher above it, once a parent has died.

    Args:
        folders: folders with a lock that a parent holds as long as it lives.
    """
    for folder in folders:
        threading.Thread(target=_exit_with_parent, args=(folder / IN_USE,), daemon=True).start()


def _exit_with_parent(lock: Path) -> None:
    """Wait for the parent's lock, which is free once the parent has died, and end this process and its launcher."""
    launcher = os.getppid()
    with locked(lock):
        if "TORCHELASTIC_RUN_ID" in os.environ and launcher == os.getppid() != 1:
            os.kill(launcher, signal.SIGKILL)  # otherwise it would restart this process
        os._exit(1)
