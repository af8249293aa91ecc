"""The state of a training on disk: appears whole, names its own checksum, and the one before it is kept."""

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

logger = logging.getLogger("torchmill")

KEPT = 2  # the newest, and the one before it in case that the newest turns out damaged
LARGEST_SHARE = 0.02  # of the time may go into writing them


class Checkpoints:
    """The checkpoints of one training: ``000017-0123456789abcdef.pt``, a serial number and the file's SHA-256.

    Since the name holds the checksum, one rename publishes both: a file is what its name says or it is damaged.

    Args:
        folder: theirs alone.
        interval_seconds: how often, at most, one is written in the middle of an epoch; 0 for every step.
    """

    def __init__(self, folder: Path, interval_seconds: float):
        self.folder = folder
        self.interval_seconds = interval_seconds
        self.written = time.monotonic()
        self.cost_seconds = 0.0
        folder.mkdir(parents=True, exist_ok=True)

    def is_due(self, at_end_of_epoch: bool = False) -> bool:
        """Tell whether to write one now: so seldom that writing takes at most 2 % of the time."""
        if not self.interval_seconds:
            return True
        affordable = self.cost_seconds / LARGEST_SHARE
        wanted = 0 if at_end_of_epoch else self.interval_seconds
        return time.monotonic() - self.written >= max(wanted, affordable)

    def save(self, state: dict[str, Any]) -> Path:
        """Write a state of tensors and plain values, and let go of the ones that it makes superfluous.

        Raises:
            UserError: the disk doesn't take it; those that were there still are.
        """
        started = time.monotonic()
        buffer = io.BytesIO()  # torch's own writing tells a full disk as a RuntimeError about positions
        torch.save(state, buffer)
        content = buffer.getbuffer()
        present = self._present()
        number = _number(present[-1]) + 1 if present else 1
        path = self.folder / f"{number:06d}-{_digest(content)}.pt"
        try:
            write_atomically(path, lambda partial: partial.write_bytes(content))
        finally:
            self.written = time.monotonic()
            self.cost_seconds = self.written - started
        self._keep(KEPT)
        return path

    def try_to_save(self, state: dict[str, Any]) -> None:
        """Write a state if the disk takes it; a training that is not over may well find room the next time."""
        try:
            self.save(state)
        except UserError as error:
            logger.warning("No checkpoint: %s The training goes on; the last good one is kept.", error)

    def newest(self) -> dict[str, Any] | None:
        """Give the newest state that is intact; damaged ones are removed, and told.

        Nothing but tensors and plain values is unpickled, so that a foreign file can run no code.
        """
        for path in reversed(self._present()):
            try:
                content = path.read_bytes()
                if _digest(content) != path.stem.partition("-")[2]:
                    raise ValueError("it is not what was written")
                return torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
            except Exception as error:  # a foreign file can make torch's reader fail in any way
                reason = " ".join(str(error).split())[:200]
                logger.warning("Checkpoint %s is of no use and is left out: %s", path.name, reason)
                path.replace(path.with_suffix(".damaged"))
        return None

    def tidy(self) -> Path:
        """Keep the newest alone, after the training's end; gives it."""
        self._keep(1)
        return self._present()[-1]

    def _present(self) -> list[Path]:
        found = (path for path in self.folder.glob("*.pt") if re.fullmatch(r"\d{6,}-[0-9a-f]{16}\.pt", path.name))
        return sorted(found, key=_number)

    def _keep(self, count: int) -> None:
        for old in self._present()[:-count]:
            old.unlink(missing_ok=True)
        for leftover in [*self.folder.glob(".*.partial"), *(self.folder.glob("*.damaged") if count == 1 else ())]:
            leftover.unlink(missing_ok=True)


def _number(path: Path) -> int:
    return int(path.stem.partition("-")[0])


def _digest(content: bytes | memoryview) -> str:
    return hashlib.sha256(content).hexdigest()[:16]
