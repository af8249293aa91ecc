"""Readers of JSON, JSON lines and arrays that answer damage in one way, whatever is wrong with a file."""

import contextlib
import functools
import json
import os
import stat
from collections.abc import Generator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from torchmill.components.errors import UserError
from torchmill.components.files import write_atomically
from torchmill.components.state_files.damage import Damaged, free_name, log_once, set_aside

if TYPE_CHECKING:
    import numpy as np

MAX_BYTES = 64 << 20
"""Largest size of a JSON file, and of a line in a file of lines."""
MAX_LINES_BYTES = 1 << 30
"""Largest size of a file of JSON lines: a journal grows with its run."""
MAX_DEPTH = 200
"""Largest nesting; pydantic's parser has the same limit."""
MAX_ARRAY_BYTES = 16 << 30
"""Largest size of an array's content."""


def read_json(path: Path, shape: Any, *, surrogates: bool = False) -> Any:
    """Return a JSON file's content as ``shape``; None if the file is missing, unreadable or damaged.

    A damaged file is renamed, with a warning: its reader goes on as if it were missing.

    Args:
        shape: any type that pydantic validates. ``dict`` alone if another version may have written other keys, which
            is no damage; then use ``fitting``.
        surrogates: take lone surrogates, with which Python spells file names that aren't UTF-8.

    Example:
        >>> read_json(Path("ports.json"), dict[str, int])  # doctest: +SKIP
        {'mlflow': 5000}
    """
    inode = 0
    try:
        with open_file(path, MAX_BYTES) as file:
            inode = os.fstat(file.fileno()).st_ino
            return parse_json(file.read(MAX_BYTES + 1), shape, surrogates=surrogates)
    except Damaged as error:
        set_aside(path, error, inode)
    except (FileNotFoundError, NotADirectoryError):
        pass
    except OSError as error:
        log_once(path, "Cannot read %s: %s. It is left out.", path, error.strerror)
    return None


def fitting(value: Any, shape: Any, path: Path) -> Any:
    """Return a value from a file as ``shape``; None, with a warning, if it doesn't fit: another version wrote it."""
    try:
        return validated(value, shape)
    except Damaged as error:
        log_once(path, "%s is left out, since it is damaged or of another version: %s.", path, error)
        return None


def require_json(path: Path, shape: Any, remedy: str) -> Any:
    """Return a JSON file's content as ``shape``.

    Raises:
        UserError: the file is missing, unreadable or damaged.
    """
    try:
        with open_file(path, MAX_BYTES) as file:
            return parse_json(file.read(MAX_BYTES + 1), shape)
    except Damaged as error:
        raise UserError(f"{path} is damaged: {error}.", remedy) from error
    except OSError as error:
        raise UserError(f"Cannot read {path}: {error.strerror}.", remedy) from error


def read_json_lines(path: Path, shape: Any) -> list[dict[str, Any]]:
    """Return the complete lines of a file that fit ``shape``; none if the file is missing.

    A line without its end is still being written. Damaged lines are left out, with a warning, and stay in the file:
    other files hold positions in it.

    Args:
        shape: type of every line. It only checks the lines, which are returned as plain dicts.
    """
    lines = read_lines(path)[:-1]  # the last one has no end
    return [row for number, line in enumerate(lines, 1) if (row := parse_line(line, shape, path, number)) is not None]


def read_lines(path: Path) -> list[bytes]:
    """Return the parts of a file between line feeds; none if it is missing or unreadable, or no file of that size."""
    try:
        with open_file(path, MAX_LINES_BYTES) as file:
            return file.read().split(b"\n")
    except Damaged as error:
        set_aside(path, error)
    except (FileNotFoundError, NotADirectoryError):
        pass
    except OSError as error:
        log_once(path, "Cannot read %s: %s. It is left out.", path, error.strerror)
    return []


def blank_damaged_lines(path: Path, shape: Any, dry_run: bool) -> int:
    """Blank the damaged lines of a file that nobody writes to, and return their number.

    The other lines stay at their positions. The file as it was stays beside it, as ``NAME.damaged``.

    Args:
        dry_run: only count them.
    """
    lines, count = read_lines(path), 0
    for number, line in enumerate(lines[:-1], 1):
        if line.strip() and parse_line(line, shape, path, number) is None:
            lines[number - 1] = b" " * len(line)
            count += 1
    if count and not dry_run:
        os.link(path, free_name(path))
        write_atomically(path, lambda partial: partial.write_bytes(b"\n".join(lines)))
    return count


def parse_line(line: bytes, shape: Any, path: Path, place: int) -> dict[str, Any] | None:
    """Return a line of a file as a dict if it fits ``shape``; None for a blank or a damaged one, which is logged.

    Args:
        place: number of the line, or its position.
    """
    if not line.strip():
        return None
    try:
        if len(line) > MAX_BYTES:
            raise Damaged(f"it has {len(line):,} bytes")
        row = _parsed(line, surrogates=True)
        validated(row, shape)
    except Damaged as error:
        log_once(
            (path, place, hash(line)), "%s is damaged at line or byte %d, which is left out: %s.", path, place, error
        )
        return None
    return row


def parse_json(text: str | bytes, shape: Any, *, surrogates: bool = False) -> Any:
    """Return JSON as ``shape``.

    Args:
        surrogates: take lone surrogates, with which Python spells file names that aren't UTF-8.

    Raises:
        Damaged: the text is no JSON, is too large or nested too deep, or doesn't fit.
    """
    if len(text) > MAX_BYTES:
        raise Damaged(f"it has {len(text):,} bytes")
    return validated(_parsed(text, surrogates), shape)


def read_arrays(path: Path, dimensions: Mapping[str, tuple[int, ...]]) -> "dict[str, np.ndarray]":
    """Return arrays of numbers from an ``.npz`` file.

    Args:
        dimensions: names of the arrays, with the numbers of dimensions that each may have.

    Raises:
        Damaged: the file is no such archive, is too large, or lacks an array.
        OSError: it is missing or unreadable.
    """
    import numpy as np

    arrays = {}
    try:
        with open_file(path, MAX_ARRAY_BYTES) as file, np.load(file, allow_pickle=False) as archive:
            sizes = {entry.filename.removesuffix(".npy"): entry.file_size for entry in archive.zip.infolist()}
            for name, counts in dimensions.items():
                if sizes.get(name, 0) > MAX_ARRAY_BYTES:
                    raise Damaged(f"its array {name} has {sizes[name]:,} bytes")
                arrays[name] = archive[name]
                if arrays[name].ndim not in counts or arrays[name].dtype.kind not in "biuf":
                    raise Damaged(f"its array {name} has the shape {arrays[name].shape} and {arrays[name].dtype}")
    except (Damaged, OSError):
        raise
    except Exception as error:  # numpy, zipfile and zlib raise whatever a damaged byte leads to
        raise Damaged(f"it holds no such arrays ({' '.join(str(error).split())[:200]})") from error
    return arrays


@contextlib.contextmanager
def open_file(path: Path, most: int = MAX_LINES_BYTES) -> Generator[BinaryIO]:
    """Open a regular file for reading.

    Args:
        most: largest size in bytes.

    Raises:
        Damaged: it is something else, such as a folder or a fifo, or larger.
        OSError: it is missing or unreadable.
    """
    # A fifo without a writer would block an ordinary open for ever.
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode):
        os.close(descriptor)
        raise Damaged("it is not a file")
    with os.fdopen(descriptor, "rb") as file:
        if status.st_size > most:
            raise Damaged(f"it has {status.st_size:,} bytes")
        yield file


def _parsed(text: str | bytes, surrogates: bool) -> Any:
    from pydantic_core import from_json

    try:
        return from_json(text)
    except ValueError as error:
        if not (surrogates and "surrogate" in str(error)):
            raise Damaged(f"no JSON, {error}") from error
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise Damaged(f"no JSON, {error}") from error
    _check_depth(value, MAX_DEPTH)
    return value


def _check_depth(value: Any, rest: int) -> None:
    if rest == 0:
        raise Damaged(f"nested more than {MAX_DEPTH} deep")
    for item in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        _check_depth(item, rest - 1)


def validated(value: Any, shape: Any) -> Any:
    """Return a value as ``shape``.

    Raises:
        Damaged: it doesn't fit.
    """
    from pydantic import ValidationError

    try:
        return _adapter(shape).validate_python(value)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(map(str, first["loc"]))
        raise Damaged(f"{place + ': ' if place else ''}{first['msg']}") from error
    except (ValueError, TypeError, KeyError, OverflowError, RecursionError) as error:  # of a class's own checks
        raise Damaged(f"{type(error).__name__}: {error}") from error


@functools.cache
def _adapter(shape: Any) -> Any:
    from pydantic import TypeAdapter

    return TypeAdapter(shape)
