"""A run's journal: what it has to record, one JSON object a line, in order."""

import contextlib
import json
import logging
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from torchmill.components.errors import UserError

logger = logging.getLogger("torchmill")

Status = Literal["FINISHED", "FAILED", "KILLED"]

ERROR_TAG = "error"


class Journal:
    """What a run has to tell, a line of JSON each, in the order in which it happened."""

    def __init__(self, folder: Path):
        self.path = folder / "journal.jsonl"
        self._unwritten = b""
        with contextlib.suppress(FileNotFoundError):
            text = self.path.read_bytes()
            if not text.endswith(b"\n"):  # a write that was cut off: what follows must not be glued to it
                os.truncate(self.path, text.rfind(b"\n") + 1)

    def append(self, record: Mapping[str, Any]) -> None:
        """Write a record; on a full disk it is kept in memory, and written with the next one that finds room."""
        self._unwritten += json.dumps(record, allow_nan=False, default=str).encode() + b"\n"
        try:
            self._write()
        except OSError as error:
            logger.warning("Cannot write %s: %s. It is tried again.", self.path, error.strerror)

    def _write(self) -> None:
        descriptor = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            while self._unwritten:
                written = os.write(descriptor, self._unwritten)  # less, where the disk fills meanwhile
                self._unwritten = self._unwritten[written:]
        finally:
            os.close(descriptor)

    def sync(self) -> None:
        """See to it that all is on the disk.

        Raises:
            UserError: it doesn't take it.
        """
        try:
            self._write()
            with self.path.open("rb") as file:
                os.fsync(file.fileno())
        except OSError as error:
            raise UserError(f"Cannot write {self.path}: {error.strerror}.", "Is the disk full or read-only?") from error

    def records(self) -> list[dict[str, Any]]:
        """Give all that is written."""
        return read_lines(self.path)


def now_ms() -> int:
    return int(time.time() * 1000)


def read_delivered(folder: Path) -> str:
    """How far the recorder has come; empty before it has sent anything."""
    try:
        return (folder / "sent.json").read_text()
    except FileNotFoundError:
        return ""


def read_lines(path: Path) -> list[dict[str, Any]]:
    try:
        text = path.read_bytes()
    except FileNotFoundError:
        return []
    return [json.loads(line) for line in text[: text.rfind(b"\n") + 1].splitlines()]
