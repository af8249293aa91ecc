"""A run's journal: one JSON record per line, in the order in which things happened."""

import contextlib
import json
import logging
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from torchmill.components.errors import UserError
from torchmill.components.files import append_to
from torchmill.components.wording import without_passwords

logger = logging.getLogger("torchmill")

Status = Literal["FINISHED", "FAILED", "KILLED"]

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
        self.path = folder / "journal.jsonl"
        self._unwritten = b""
        with contextlib.suppress(FileNotFoundError):
            text = self.path.read_bytes()
            if not text.endswith(b"\n"):  # a kill cut off the last line: the next record needs a line to itself
                os.truncate(self.path, text.rfind(b"\n") + 1)

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
        return read_json_lines(self.path)


def read_json_lines(path: Path) -> list[dict[str, Any]]:
    """Return the complete lines of a file; none if the file is missing."""
    try:
        text = path.read_bytes()
    except FileNotFoundError:
        return []
    return [json.loads(line) for line in text[: text.rfind(b"\n") + 1].splitlines()]


def read_progress(folder: Path) -> str:
    """Return how far the recorder has come, as JSON; empty before it has sent anything."""
    try:
        return (folder / "sent.json").read_text()
    except FileNotFoundError:
        return ""


def now_ms() -> int:
    """Return the milliseconds since 1970, MLflow's unit of time."""
    return int(time.time() * 1000)


def timestamp() -> str:
    """Return the local time with its offset, to the second."""
    return time.strftime("%Y-%m-%dT%H:%M:%S%z")
