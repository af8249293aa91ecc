"""Files below a folder: links are followed; hidden files and folders of operating systems are left out."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from torchmill.components.errors import UserError

SYSTEM_FILES = frozenset({"thumbs.db", "desktop.ini"})
"""Files that operating systems leave in folders; hidden files are others."""

SYSTEM_FOLDERS = frozenset(
    {"__macosx", "@eadir", "lost+found", "$recycle.bin", "system volume information", "__pycache__"}
)
"""Folders, in lower case, that operating systems, archives and network drives leave beside a user's own."""


class Listing(NamedTuple):
    """A folder's own files and folders, by name, without those that are left out."""

    place: str
    files: list[str]
    folders: list[str]


def is_ours(name: str) -> bool:
    """Return whether a file or folder is a user's: neither hidden nor an operating system's."""
    return not name.startswith(".") and name.lower() not in SYSTEM_FILES and name.lower() not in SYSTEM_FOLDERS


def walk(root: Path | str) -> Iterator[Listing]:
    """Yield the folders at and below ``root``, in the order of their names; a link back to a folder above is left out.

    A link to nothing counts as a file.

    Raises:
        UserError: a folder can't be read.
    """
    try:
        parents = {*Path(os.path.abspath(root)).parents, *Path(root).resolve().parents}  # noqa: PTH100
        yield from _walk(os.fspath(root), tuple((stat.st_dev, stat.st_ino) for stat in map(os.stat, parents)))
    except OSError as error:
        raise UserError(f"Cannot read {error.filename or root}: {error.strerror}.") from None


def _walk(place: str, above: tuple[tuple[int, int], ...]) -> Iterator[Listing]:
    stat = os.stat(place)  # noqa: PTH116 (a Path for each of a million files is slow)
    identity = (stat.st_dev, stat.st_ino)
    if identity in above:
        return
    files, folders = [], []
    with os.scandir(place) as entries:
        for entry in entries:
            if is_ours(entry.name):
                (folders if entry.is_dir() else files).append(entry.name)
    yield Listing(place, sorted(files), sorted(folders))
    for folder in sorted(folders):
        yield from _walk(os.path.join(place, folder), (*above, identity))  # noqa: PTH118


def stamps(place: Path) -> Iterator[str]:
    """Yield name, size and modification time of each file at or below a place, which show quickly if any changed."""
    if not place.is_dir():
        yield _stamp(os.fspath(place), place.name)
        return
    for folder, files, _ in walk(place):
        for name in files:
            path = os.path.join(folder, name)  # noqa: PTH118
            yield _stamp(path, os.path.relpath(path, place))


def stamp(file: str) -> str:
    """Return size and modification time of a file, or "gone"."""
    try:
        status = os.stat(file)  # noqa: PTH116
    except OSError:
        return "gone"
    return f"{status.st_size} {status.st_mtime_ns}"


def _stamp(file: str, name: str) -> str:
    return f"{name}\0{stamp(file)}\n"
