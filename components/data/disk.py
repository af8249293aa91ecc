"""Files that appear whole or not at all, one process at a time, and words for a disk that is full."""

import contextlib
import errno
import fcntl
import logging
import os
from collections.abc import Generator
from pathlib import Path
from typing import BinaryIO

from components.errors import UserError

logger = logging.getLogger("torchmill")

ELSEWHERE = "Set TORCHMILL_DATA to a folder elsewhere."
KEPT = "What has arrived is kept, and the next attempt goes on from it."


@contextlib.contextmanager
def writing(folder: Path, needed_bytes: int | None = None) -> Generator[None, None, None]:
    """Turn what the operating system says against writing into ``folder`` into words for the user.

    Only file operations of our own belong inside: a fault of the network is an OSError too.

    Raises:
        UserError: the disk is full, read-only, not ours, or a file stands where a folder should.
    """
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            need = f": about {needed_bytes / 1e6:.1f} MB more are needed" if needed_bytes else ""
            raise UserError(
                f"No space left in {folder}{need}.",
                f"Free some, or set TORCHMILL_DATA to a folder with more. {KEPT}",
            ) from error
        raise UserError(f"Cannot write to {folder}: {error.strerror or error}.", ELSEWHERE) from error


def make_folder(folder: Path) -> None:
    """Create the folder and those above it, or tell the user why not."""
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)


def publish(temporary: Path, final: Path) -> None:
    """Give a finished file its name; after a power cut there is the old file or the new, never half of it."""
    with temporary.open("rb") as file:
        os.fsync(file.fileno())
    temporary.replace(final)
    sync_folder(final.parent)


def sync_folder(folder: Path) -> None:
    """Make names that were added to or taken from the folder last."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextlib.contextmanager
def new_file(final: Path, needed_bytes: int | None = None) -> Generator[BinaryIO, None, None]:
    """Write a file that appears under its name when the block ends well, and not otherwise.

    The temporary name is always the same, so that what a killed process left is written over:
    hold a lock.
    """
    temporary = final.with_name(f".{final.name}.tmp")
    with writing(final.parent, needed_bytes):
        try:
            with temporary.open("wb") as file:
                yield file
            publish(temporary, final)
        except BaseException:
            with contextlib.suppress(OSError):
                temporary.unlink()
            raise


@contextlib.contextmanager
def locked(path: Path, what: str) -> Generator[None, None, None]:
    """Let one process (and one thread) at a time through; the others wait.

    The system takes the lock from a process that dies, however it dies. The file itself stays:
    deleting it would let a third process lock a new file beside one that is still held.
    """
    with writing(path.parent):
        file = path.open("a")
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            logger.info("Waiting for another process, which is busy with %s.", what)
            fcntl.flock(file, fcntl.LOCK_EX)
        except OSError as error:
            raise UserError(f"The file system of {path.parent} has no locks: {error.strerror}.", ELSEWHERE) from error
        yield
