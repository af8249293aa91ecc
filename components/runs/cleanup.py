"""What killed processes left half-written."""

import re
import time
from collections.abc import Iterator
from pathlib import Path

import psutil

from torchmill.components.runs.folders import Runs

ABANDONED_SECONDS = 86_400.0  # for what doesn't tell whose it is


def half_written(folder: Path) -> Iterator[Path]:
    """Temporary files in a folder, and below, whose writers are gone."""
    for path in folder.rglob(".*"):
        match = re.fullmatch(r"\..+\.(\d+)\.partial(\.npz)?|\.writable-(\d+)", path.name)
        if match and not psutil.pid_exists(int(match[1] or match[3])):
            yield path


def leftovers(runs: Runs, cache: Path) -> list[Path]:
    """All that is of no use any more: temporary files, and checkpoints that turned out damaged."""
    found = [path for path in (*half_written(runs.work), *runs.work.rglob("*.pt.damaged")) if path.is_file()]
    by_age = [*runs.folder.glob(".mlflow.db.partial*"), *cache.glob("*/.*.tmp")]
    return found + [path for path in by_age if time.time() - path.stat().st_mtime > ABANDONED_SECONDS]
