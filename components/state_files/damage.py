"""Damaged files: renamed, never deleted, and named in one line each."""

import contextlib
import itertools
import logging
import os
from collections.abc import Generator, Hashable
from contextvars import ContextVar
from pathlib import Path

logger = logging.getLogger("torchmill")

_only_looking: ContextVar[bool] = ContextVar("only_looking", default=False)
_logged: set[Hashable] = set()
"""Damage that this process has logged: a file may be read many times."""


class Damaged(ValueError):
    """A file's content is not what its writer wrote: cut off, overwritten, or of another shape."""


@contextlib.contextmanager
def only_looking() -> Generator[None]:
    """Leave damaged files where they are inside the block."""
    token = _only_looking.set(True)
    try:
        yield
    finally:
        _only_looking.reset(token)


def set_aside(path: Path, reason: object, inode: int = 0, *, quiet: bool = False) -> Path | None:
    """Rename a damaged file to ``NAME.damaged``, log a line, and return its new path; None if it stays.

    Args:
        inode: number of the file that was read, from its stat. If another process has replaced that file by now, the
            new one stays.
        quiet: leave the line about the new name to the caller.
    """
    if _only_looking.get():
        log_once((path, inode), "%s is damaged: %s.", path, reason)
        return None
    aside = free_name(path)
    try:
        if inode and path.lstat().st_ino != inode:
            return None
        path.rename(aside)
        if inode and aside.lstat().st_ino != inode:  # replaced within the last microseconds
            os.link(aside, path, follow_symlinks=False)
            aside.unlink()
            return None
    except FileNotFoundError:  # another process was faster
        return None
    except OSError as error:
        log_once((path, inode), "%s is damaged: %s. It is left out, and stays: %s.", path, reason, error.strerror)
        return None
    if not quiet:
        logger.warning("%s is damaged: %s. It was renamed to %s.", path, reason, aside.name)
    return aside


def log_once(key: Hashable, message: str, *arguments: object) -> None:
    """Log a warning unless this process has logged one with the same key."""
    if key not in _logged:
        _logged.add(key)
        logger.warning(message, *arguments)


def is_file_name(text: object) -> bool:
    """Return True if a text from a file names an entry of a folder, and nothing above, below or outside it.

    Example:
        >>> is_file_name("digits-cnn-1"), is_file_name("../digits")
        (True, False)
    """
    is_one_part = isinstance(text, str) and text.isprintable() and "/" not in text and text not in ("", ".", "..")
    return is_one_part and len(os.fsencode(text)) <= 255


def free_name(path: Path) -> Path:
    """Return a path beside a damaged file that it can be renamed to."""
    stem = os.fsdecode(os.fsencode(path.name)[:200])
    names = itertools.chain([f"{stem}.damaged"], (f"{stem}.damaged-{number}" for number in itertools.count(2)))
    return next(aside for name in names if not os.path.lexists(aside := path.with_name(name)))
