"""Files and folders that the user's code reads while it runs, and a later check whether any of them changed."""

import contextlib
import hashlib
import os
import sys
from collections.abc import Generator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from torchmill.components.reading.folders import is_ours, stamp

FOLDERS = "/"
"""Mark among endings: the names of folders count, too."""

NOT_DATA = (".py", ".pyc", ".so", ".pyd", ".dll")
SYSTEM = tuple({sys.prefix, sys.base_prefix, "/proc", "/sys", "/dev", "/etc", "/usr/lib", "/usr/share"})


class Place(NamedTuple):
    """A file, or the files of a folder that was listed."""

    path: str
    endings: tuple[str, ...] | None
    """Endings of the files that count in a folder, perhaps with ``FOLDERS``; empty if all count; None for a file."""
    stamp: str
    """Text that changes if the file, or one of the folder's, does."""


class Reads:
    """Record of the files that were opened for reading, and of the folders that were listed."""

    def __init__(self) -> None:
        self.files: dict[str, None] = {}
        self.folders: dict[str, None] = {}

    def places(self, beside: Path) -> list[Place]:
        """Return the files and folders with their present stamps.

        A folder counts by the endings of the files that were opened in it; without such, by those of all opened files.
        If none was opened, all files count: a library in C may have read them. The folder of the user's code and the
        working directory then don't count at all.

        Args:
            beside: file of the user's code.
        """
        places = []
        listed: dict[str, set[str]] = {folder: set() for folder in self.folders}
        for file in self.files:
            folder, name = os.path.split(file)
            if folder in listed:
                listed[folder].add(os.path.splitext(name)[1])  # noqa: PTH122
            else:
                places.append(Place(file, None, stamp(file)))
        opened = {os.path.splitext(file)[1] for file in self.files}  # noqa: PTH122
        for folder, own in listed.items():
            if opened:
                endings = tuple(sorted(own or {*opened, FOLDERS}))
                places.append(Place(folder, endings, _listing(folder, endings)))
            elif folder not in (str(beside.parent), os.getcwd()):  # noqa: PTH109
                places.append(Place(folder, (), _listing(folder, ())))
        return places


def first_changed(places: Sequence[Sequence[Any]]) -> str:
    """Return the first of the places, as JSON has them, that is not as it was; empty if none has changed."""
    for path, endings, before in places:
        now = stamp(path) if endings is None else _listing(path, tuple(endings))
        if now != before:
            return str(path)
    return ""


def _listing(folder: str, endings: tuple[str, ...]) -> str:
    """Return the digest of names, sizes and times of a folder's files."""
    digest = hashlib.blake2b(digest_size=16)
    try:
        with os.scandir(folder) as entries:
            members = sorted((entry for entry in entries if is_ours(entry.name)), key=lambda entry: entry.name)
    except OSError:
        return "gone"
    for entry in members:
        if entry.is_dir():
            if endings and FOLDERS not in endings:
                continue
            digest.update(f"{entry.name}/\n".encode(errors="surrogateescape"))
        elif not endings or entry.name.endswith(endings):
            digest.update(f"{entry.name}\0{stamp(entry.path)}\n".encode(errors="surrogateescape"))
    return digest.hexdigest()


_recording: Reads | None = None
_is_hooked = False


@contextlib.contextmanager
def recorded_reads() -> Generator[Reads]:
    """Record what Python code of this process reads: a library in C shows by the folders that were listed for it."""
    global _recording, _is_hooked
    if not _is_hooked:
        sys.addaudithook(_hook)  # which can't be removed
        _is_hooked = True
    before, _recording = _recording, Reads()
    try:
        yield _recording
    finally:
        _recording = before


def _hook(event: str, arguments: tuple[Any, ...]) -> None:
    """Record an event. It runs within the call that reads, so it opens nothing and takes no lock itself."""
    reads = _recording
    if reads is None or event not in ("open", "os.listdir", "os.scandir", "sqlite3.connect"):
        return
    place = arguments[0] if arguments else None
    if isinstance(place, bytes):
        place = os.fsdecode(place)
    if event.startswith("os.") and place is None:
        place = "."
    if not isinstance(place, str | os.PathLike) or _by_importlib():
        return
    path = os.path.abspath(place)  # noqa: PTH100
    if path.startswith(SYSTEM) or any("\ud800" <= letter <= "\udfff" for letter in path):  # no UTF-8: not for JSON
        return
    if event.startswith("os."):
        reads.folders[path] = None
    elif not path.endswith(NOT_DATA) and (event != "open" or _is_reading(*arguments[1:3])):
        reads.files[path] = None


def _by_importlib() -> bool:
    """Return whether an import is what reads."""
    frame = sys._getframe(2)
    return frame.f_code.co_filename.startswith("<frozen ")


def _is_reading(mode: object, flags: object) -> bool:
    if isinstance(mode, str):
        return not set(mode) & set("wax+")
    return isinstance(flags, int) and flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT) == 0
