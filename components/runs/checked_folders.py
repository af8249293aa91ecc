"""Folders of runs and steps that were whole at the last check, and whose files have not changed since."""

import contextlib
import hashlib
import multiprocessing
import os
import sys
import time
from collections.abc import Generator, Iterable
from functools import cached_property
from multiprocessing.connection import Connection
from pathlib import Path

from pydantic import VERSION, BaseModel

from torchmill.components.errors import UserError
from torchmill.components.files import write_text
from torchmill.components.runs.folders import Runs
from torchmill.components.state_files import MAX_BYTES, fitting, read_json

NOTE = "checked.json"
RUN_FILES = ("/run.json", "/sent.json", "/result.json", "/journal.jsonl")
"""State files in a run's folder."""
STEP_FILES = ("/result.json",)
"""State files in a step's folder."""
SETTLED_NANOSECONDS = 2_000_000_000
"""Age of the latest change from which a mark is sure: one within the same tick of the clock has the same times."""
COMPONENTS = Path(__file__).parents[1]


class Note(BaseModel):
    """Content of ``checked.json``."""

    checks: str = ""
    """Digest of the code that checked."""
    marks: dict[str, dict[str, int]] = {}
    """Marks of whole folders, by parent and name."""
    watched: dict[str, dict[str, list[str]]] = {}
    """More paths that a folder's mark includes, by parent and name. They are below the parent."""


Mark = tuple[int, int]
"""Digest of the inodes, sizes and times of files, and the time of their latest change in nanoseconds."""


def extended(mark: Mark, paths: Iterable[str], descriptor: int) -> Mark:
    """Return a mark that includes more files, or their absence.

    Args:
        paths: paths below a parent folder: the system resolves them faster than absolute ones.
        descriptor: descriptor of that folder.
    """
    value, newest = mark
    stat = os.stat  # a Path each would double the time of many thousands
    for path in paths:
        try:
            status = stat(path, dir_fd=descriptor)
        except OSError:
            value = hash((value, 0))
            continue
        changed = status.st_ctime_ns
        # Python's hash of integers is the same in every process, and the fastest.
        value = hash((value, status.st_ino, status.st_size, status.st_mtime_ns, changed))
        if changed > newest:
            newest = changed
    return value, newest


def _own_files(parent: str, name: str) -> list[str]:
    """Return a folder and its state files, below its parent."""
    return [name, *[name + file for file in (STEP_FILES if parent else RUN_FILES)]]


Looks = tuple[dict[str, dict[str, int]], list[tuple[str, str]]]
"""Marks of the folders that are as they were, by parent and name; and parents and names of the others."""


class CheckedFolders:
    """The folders of runs and steps that are to be checked: new ones, and those that have changed or were damaged.

    A check of thousands of folders parses every state file; a look at their times takes a hundredth of that.

    Example:
        >>> folders = CheckedFolders(runs)
        >>> for folder in folders.changed:
        ...     if not is_whole(folder):
        ...         folders.doubt(folder)
        >>> folders.save()
    """

    def __init__(self, runs: Runs):
        self.runs = runs
        self._work = str(runs.work)
        self._file = runs.work / NOTE
        self._checks = digest_of_checks()
        plain = read_json(self._file, dict)
        is_ours = plain is not None and plain.get("checks") == self._checks
        self._note = (is_ours and fitting(plain, Note, self._file)) or Note(checks=self._checks)
        self._whole: dict[str, dict[str, int]] = {}
        """Marks of folders that are as they were."""
        self._marks: dict[str, Mark] = {}
        self._watched: dict[str, list[str]] = {}
        self._doubtful: set[str] = set()
        self._receiver: Connection | None = None

    def look_ahead(self) -> None:
        """Look for changes in a forked process, while this one does something else, such as imports."""
        if self._note.marks:
            context = multiprocessing.get_context("fork")
            self._receiver, sender = context.Pipe(duplex=False)
            context.Process(target=lambda: sender.send(self._look()), daemon=True).start()
            sender.close()

    @cached_property
    def changed(self) -> list[Path]:
        """The folders to check."""
        self._whole, changed = self._look_or_receive()
        for parent, name in changed:
            path = f"{parent}/{name}".strip("/")
            with _opened(f"{self._work}/{parent}") as descriptor:
                self._marks[path] = extended((0, 0), _own_files(parent, name), descriptor)
            self._watch_subfolders(f"{self._work}/{path}")
        return [self.runs.work / path for path in self._marks]

    def _look_or_receive(self) -> Looks:
        if self._receiver:
            with contextlib.suppress(EOFError, OSError):  # that process was killed
                return self._receiver.recv()
        return self._look()

    def _look(self) -> Looks:
        """Return the marks of the folders that are as they were, by parent and name, and the others."""
        whole: dict[str, dict[str, int]] = {}
        changed = []
        for parent in map(self._name, self.parents):
            if parent == "steps":
                continue
            marks, watched = self._note.marks.get(parent, {}), self._note.watched.get(parent, {})
            unchanged = whole[parent] = {}
            with _opened(f"{self._work}/{parent}") as descriptor:
                for name in _subfolders(descriptor):
                    mark = extended((0, 0), _own_files(parent, name), descriptor)
                    value = extended(mark, watched[name], descriptor)[0] if name in watched else mark[0]
                    if marks.get(name) == value:
                        unchanged[name] = value
                    elif parent or name != "steps":
                        changed.append((parent, name))
        return whole, changed

    @cached_property
    def parents(self) -> list[str]:
        """The working folder and those of the steps' caches: they hold the folders to check."""
        steps = f"{self._work}/steps"
        with _opened(steps) as descriptor:
            return [self._work, steps, *[f"{steps}/{name}" for name in _subfolders(descriptor)]]

    def watch(self, folder: Path, path: Path) -> None:
        """Include a file, which a check of a folder is about to read, in the folder's mark.

        Args:
            path: the file, below the folder's parent.
        """
        name, below = self._name(str(folder)), str(path.relative_to(folder.parent))
        with _opened(str(folder.parent)) as descriptor:
            self._marks[name] = extended(self._marks[name], [below], descriptor)
        self._watched.setdefault(name, []).append(below)

    def doubt(self, path: Path) -> None:
        """Check the folder with a path the next time, too."""
        parts = path.relative_to(self.runs.work).parts
        self._doubtful.add("/".join(parts[: 3 if parts[0] == "steps" else 1]))

    def save(self) -> None:
        """Note the folders that no check has doubted. If that is impossible, the next check takes longer."""
        settled = time.time_ns() - SETTLED_NANOSECONDS
        watched: dict[str, dict[str, list[str]]] = {}
        for parent, whole in self._whole.items():  # those that are as they were
            watches = self._note.watched.get(parent, {})
            watched[parent] = {name: watches[name] for name in whole if name in watches}
        for path, (value, newest) in self._marks.items():
            if path not in self._doubtful and newest < settled:
                parent, _, name = path.rpartition("/")
                self._whole[parent][name] = value
                if path in self._watched:
                    watched[parent][name] = self._watched[path]
        note = Note(checks=self._checks, marks=self._whole, watched=watched)
        if note != self._note and len(text := note.model_dump_json()) <= MAX_BYTES:
            with contextlib.suppress(UserError):
                write_text(self._file, text)

    def _watch_subfolders(self, folder: str) -> None:
        """Include the folders below a folder: temporary files may be anywhere."""
        stack = [folder]
        while stack:
            parent = stack.pop()
            with _opened(parent) as descriptor:
                below = [f"{parent}/{name}" for name in _subfolders(descriptor, follow_links=False)]
            for path in below:
                self.watch(Path(folder), Path(path))  # before it is listed
            stack += below

    def _name(self, path: str) -> str:
        return path[len(self._work) + 1 :]


@contextlib.contextmanager
def _opened(folder: str) -> Generator[int]:
    """Open a folder; yield its descriptor, and -1 if it is missing, unreadable, or no folder."""
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        yield -1
        return
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _subfolders(descriptor: int, *, follow_links: bool = True) -> list[str]:
    """Return the names of the folders in a folder that ``_opened`` has opened."""
    if descriptor < 0:
        return []
    with os.scandir(descriptor) as entries:
        return [entry.name for entry in entries if entry.is_dir(follow_symlinks=follow_links)]


def digest_of_checks() -> str:
    """Return a digest of all that decides whether a file is damaged: another version may look for more."""
    digest = hashlib.sha256(f"{sys.version} {VERSION}".encode())
    for file in sorted(COMPONENTS.rglob("*.py")):
        digest.update(file.read_bytes())
    return digest.hexdigest()
