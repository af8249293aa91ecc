"""Files that killed processes left half-written."""

import contextlib
import os
import re
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import psutil

from torchmill.components.errors import UserError
from torchmill.components.files import ABANDONED_SECONDS, locked
from torchmill.components.runs.checked_folders import CheckedFolders

LARGEST_PROCESS_ID = 2**31 - 1


def half_written(paths: Iterable[Path]) -> Iterator[tuple[Path, bool]]:
    """Yield those of the paths that are temporary files, each with whether its writer has died.

    A living writer holds a lock on its file. The id in the name is another process's by now, if the file is old.
    """
    for path in paths:
        match = re.fullmatch(r"\..+\.([0-9]+)\.partial(\.npz)?|\.writable-([0-9]+)", path.name)
        if match and path.is_file():
            is_free = False
            if not _exists(int(match[1] or match[3])) or _is_old(path):
                with contextlib.suppress(UserError), locked(path, wait=False) as is_free:
                    pass
            yield path, is_free


def _exists(process: int) -> bool:
    return process <= LARGEST_PROCESS_ID and psutil.pid_exists(process)


def _is_old(path: Path) -> bool:
    return time.time() - path.lstat().st_mtime > ABANDONED_SECONDS


def leftovers(folders: CheckedFolders, cache: Path) -> list[Path]:
    """Return the files to delete: abandoned temporary files, and damaged checkpoints."""
    files = [path for parent in folders.parents for path, is_free in half_written(_hidden(parent)) if is_free]
    for folder in folders.changed:
        for path, is_free in half_written(folder.rglob(".*")):
            folders.doubt(path)
            if is_free:
                files.append(path)
        for path in folder.rglob("*.damaged"):
            if path.parent.name == "checkpoints":
                folders.doubt(path)
                files.append(path)
    by_age = [*folders.runs.folder.glob(".mlflow.db.partial*"), *cache.glob("*/.*.tmp")]
    return [path for path in files if path.is_file()] + [path for path in by_age if _is_old(path)]


def _hidden(folder: str) -> list[Path]:
    """Return the hidden files in a folder of many others."""
    with contextlib.suppress(OSError):
        return [Path(folder, name) for name in os.listdir(folder) if name.startswith(".")]  # noqa: PTH208 - far faster
    return []
