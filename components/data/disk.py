"""The data cache's disk: one process at a time, and words for when it is full or not ours."""

import contextlib
import errno
import fcntl
import logging
from collections.abc import Generator
from pathlib import Path
from typing import BinaryIO

from torchmill.components import files
from torchmill.components.errors import UserError

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
            files.publish(temporary, final)
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
