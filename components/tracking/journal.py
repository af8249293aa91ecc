"""A run's journal: one JSON record per line, in the order in which things happened."""

import contextlib
import json
import logging
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torchmill.components.errors import UserError
from torchmill.components.files import append_to
from torchmill.components.state_files import read_json_lines, read_lines
from torchmill.components.tracking.records import Record
from torchmill.components.wording import without_passwords

logger = logging.getLogger("torchmill")

JOURNAL = "journal.jsonl"

ERROR_TAG = "error"
"""Tag with the reason why a run failed."""


class Journal:
    """The file ``journal.jsonl`` in a run's folder. Processes may append to it at the same time.

    Example:
        >>> journal = Journal(folder)
        >>> journal.append({"kind": "tags", "tags": {"team": "vision"}})
        >>> journal.records()
        [{'kind': 'tags', 'tags': {'team': 'vision'}}]
    """

    def __init__(self, folder: Path):
        self.path = folder / JOURNAL
        self._unwritten = b""
        end_last_line(self.path)

    def append(self, record: Mapping[str, Any]) -> None:
        """Write a record, without passwords in addresses.

        If the disk is full, keep it in memory and write it together with the next one.
        """
        self._unwritten += without_passwords(json.dumps(record, allow_nan=False, default=str)).encode() + b"\n"
        try:
            self._write()
        except OSError as error:
            logger.warning("Cannot write %s: %s. It is tried again.", self.path, error.strerror)

    def _write(self) -> None:
        with append_to(self.path) as file:
            while self._unwritten:
                size = file.write(self._unwritten)  # a disk that fills up takes a part
                self._unwritten = self._unwritten[size or 0 :]

    def sync(self) -> None:
        """Write the records that wait in memory, and fsync the file.

        Raises:
            UserError: the disk is full or read-only.
        """
        try:
            self._write()
            with self.path.open("rb") as file:
                os.fsync(file.fileno())
        except OSError as error:
            raise UserError(f"Cannot write {self.path}: {error.strerror}.", "Is the disk full or read-only?") from error

    def records(self) -> list[dict[str, Any]]:
        """Return the records in the file."""
        return read_json_lines(self.path, Record)


def end_last_line(path: Path) -> None:
    """End the last line of a file, which a kill may have cut off, so that the next one begins a line."""
    lines = read_lines(path)
    rest = lines[-1] if lines else b""
    with contextlib.suppress(OSError):  # the next write fails as well, with a message
        if rest.startswith(b'{"'):  # half of a record
            os.truncate(path, sum(map(len, lines)) + len(lines) - 1 - len(rest))
        elif rest:  # damage, which readers leave out
            with append_to(path) as file:
                file.write(b"\n")


def now_ms() -> int:
    """Return the milliseconds since 1970, MLflow's unit of time."""
    return int(time.time() * 1000)


def timestamp() -> str:
    """Return the local time with its offset, to the second."""
    return time.strftime("%Y-%m-%dT%H:%M:%S%z")
