"""Files that appear whole or not at all."""

import contextlib
import errno
import json
import os
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path

from torchmill.components.errors import UserError


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Let ``write`` fill a temporary file beside ``path`` and put it in its place once it is on disk.

    A reader, and a machine that loses power, sees the old file or the new one, never a part.

    Raises:
        UserError: the disk is full, or the place cannot be written to.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        write(partial)
        publish(partial, path)
    except OSError as error:
        remedy = "Free some space." if error.errno == errno.ENOSPC else "Is the place writable?"
        raise UserError(f"Cannot write {path}: {error.strerror or error}.", remedy) from error
    finally:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)


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


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically, in UTF-8."""
    write_atomically(path, lambda partial: partial.write_text(text, encoding="utf-8"))


def read_state(path: Path) -> dict:
    """Read a small JSON file that another process writes atomically; empty where there is none, or it can't be read."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, json.JSONDecodeError):
        return {}


@contextmanager
def locked(path: Path, *, shared: bool = False, wait: bool = True) -> Generator[bool]:
    """Hold a lock that the system frees when its holder dies; yields whether it was got.

    Args:
        path: the lock's file, created where it isn't there. It is never removed: a second
            process could otherwise lock a file that is no longer under its name.
        shared: several may hold it, but nobody exclusively beside them.
        wait: wait for it; otherwise yield False when somebody else has it.
    """
    import fcntl

    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        kind = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
        try:
            fcntl.flock(descriptor, kind if wait else kind | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True
    finally:
        os.close(descriptor)
