"""Files that killed processes left half-written."""

import contextlib
import re
import time
from collections.abc import Iterator
from pathlib import Path

import psutil

from torchmill.components.errors import UserError
from torchmill.components.files import ABANDONED_SECONDS, locked
from torchmill.components.runs.folders import Runs

LARGEST_PROCESS_ID = 2**31 - 1


def half_written(folder: Path) -> Iterator[Path]:
    """Yield the temporary files in a folder, and below, whose writers have died.

    A living writer holds a lock on its file. The id in the name is another process's by now, if the file is old.
    """
    for path in folder.rglob(".*"):
        match = re.fullmatch(r"\..+\.([0-9]+)\.partial(\.npz)?|\.writable-([0-9]+)", path.name)
        if match and path.is_file() and (not _exists(int(match[1] or match[3])) or _is_old(path)):
            with contextlib.suppress(UserError), locked(path, wait=False) as is_free:
                if is_free:
                    yield path


def _exists(process: int) -> bool:
    return process <= LARGEST_PROCESS_ID and psutil.pid_exists(process)


def _is_old(path: Path) -> bool:
    return time.time() - path.lstat().st_mtime > ABANDONED_SECONDS


def leftovers(runs: Runs, cache: Path) -> list[Path]:
    """Return the files to delete: abandoned temporary files, and damaged checkpoints."""
    files = [path for path in (*half_written(runs.work), *runs.work.rglob("checkpoints/*.damaged")) if path.is_file()]
    by_age = [*runs.folder.glob(".mlflow.db.partial*"), *cache.glob("*/.*.tmp")]
    return files + [path for path in by_age if _is_old(path)]
