"""Checkpoints of a training: each is written atomically and has its checksum in its name."""

import hashlib
import io
import logging
import re
import time
from pathlib import Path
from typing import Any

import torch

from torchmill.components.errors import UserError
from torchmill.components.files import write_atomically
from torchmill.components.state_files import MAX_ARRAY_BYTES, open_file

logger = logging.getLogger("torchmill")

KEPT = 2
"""Checkpoints to keep: the newest, and the one before it in case the newest is damaged."""
LARGEST_SHARE = 0.02
"""Largest share of the time to spend on writing checkpoints."""


class Checkpoints:
    """The checkpoints of one training: ``000017-0123456789abcdef.pt``, a serial number and the file's SHA-256.

    One rename publishes the file and its checksum together, so a damaged file never goes unnoticed.

    Args:
        folder: a folder for this training's checkpoints alone.
        interval_seconds: seconds between checkpoints within an epoch; 0 writes one after every step.

    Example:
        >>> checkpoints = Checkpoints(folder, interval_seconds=30)  # doctest: +SKIP
        >>> checkpoints.save({"epoch": 3, "network": network.state_dict()})  # doctest: +SKIP
        >>> checkpoints.newest()["epoch"]  # doctest: +SKIP
        3
    """

    def __init__(self, folder: Path, interval_seconds: float):
        self.folder = folder
        self.interval_seconds = interval_seconds
        self.written = time.monotonic()
        self.cost_seconds = 0.0
        folder.mkdir(parents=True, exist_ok=True)

    def is_due(self, at_end_of_epoch: bool = False) -> bool:
        """Return True if the interval is over, and writing still takes at most 2 % of the time."""
        if not self.interval_seconds:
            return True
        affordable_interval = self.cost_seconds / LARGEST_SHARE
        interval = 0 if at_end_of_epoch else self.interval_seconds
        return time.monotonic() - self.written >= max(interval, affordable_interval)

    def save(self, state: dict[str, Any]) -> Path:
        """Write a state of tensors and plain values, and remove all but the newest ``KEPT`` checkpoints.

        Raises:
            UserError: the state can't be written, for example because the disk is full. Older checkpoints remain.
        """
        started = time.monotonic()
        buffer = io.BytesIO()  # on a full disk, torch's own writer raises a RuntimeError about positions
        torch.save(state, buffer)
        present = self._present()
        number = _number(present[-1]) + 1 if present else 1
        with buffer.getbuffer() as content:  # an error's traceback would keep the view, and the buffer with it
            path = self.folder / f"{number:06d}-{_digest(content)}.pt"
            try:
                write_atomically(path, lambda partial: _write(partial, content))
            finally:
                self.written = time.monotonic()
                self.cost_seconds = self.written - started
        self._keep(KEPT)
        return path

    def try_to_save(self, state: dict[str, Any]) -> None:
        """Write a state, or log a warning if that fails: the disk may have room again next time."""
        try:
            self.save(state)
        except UserError as error:
            logger.warning("No checkpoint: %s The training goes on, and the last good checkpoint is kept.", error)

    def newest(self) -> dict[str, Any] | None:
        """Return the newest intact state, if any; damaged files are set aside with a warning.

        Only tensors and plain values are unpickled, so a foreign file can't run code.
        """
        for path in reversed(self._present()):
            try:
                with open_file(path, MAX_ARRAY_BYTES) as file:
                    content = file.read()
                if _digest(content) != path.stem.partition("-")[2]:
                    raise ValueError("its content does not match its checksum")
                return torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
            except Exception as error:  # a foreign file can make torch's reader fail in any way
                reason = " ".join(str(error).split())[:200]
                logger.warning("Checkpoint %s is damaged and is skipped: %s", path.name, reason)
                path.replace(path.with_suffix(".damaged"))
        return None

    def tidy(self) -> Path:
        """Remove all but the newest checkpoint, after the training's end, and return its path."""
        self._keep(1)
        return self._present()[-1]

    def _present(self) -> list[Path]:
        files = (path for path in self.folder.glob("*.pt") if re.fullmatch(r"\d{6,}-[0-9a-f]{16}\.pt", path.name))
        return sorted(files, key=_number)

    def _keep(self, count: int) -> None:
        for old in self._present()[:-count]:
            old.unlink(missing_ok=True)
        for stale in [*self.folder.glob(".*.partial"), *(self.folder.glob("*.damaged") if count == 1 else ())]:
            stale.unlink(missing_ok=True)


def _number(path: Path) -> int:
    return int(path.stem.partition("-")[0])


def _write(file: Path, content: memoryview) -> None:
    with file.open("wb") as opened:  # write_bytes makes a view that an error's traceback keeps
        opened.write(content)


def _digest(content: bytes | memoryview) -> str:
    return hashlib.sha256(content).hexdigest()[:16]
