"""Folders of runs and steps that were whole at the last check, and whose files have not changed since."""

import contextlib
import hashlib
import os
import sys
import time
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from pydantic import VERSION, BaseModel

from torchmill.components.errors import UserError
from torchmill.components.files import write_text
from torchmill.components.runs.folders import Runs
from torchmill.components.state_files import MAX_BYTES, read_json

NOTE = "checked.json"
RUN_FILES = ("run.json", "sent.json", "result.json", "journal.jsonl")
"""State files in a run's folder."""
STEP_FILES = ("result.json",)
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
    watched: dict[str, list[str]] = {}
    """Paths that a folder's mark includes, beside itself and its state files; below the working folder, as all here."""


@dataclass
class Mark:
    """Digest of the inodes, sizes and times of files."""

    value: int = 0
    newest: int = 0
    """Time of the latest change in nanoseconds."""

    def add(self, path: str) -> None:
        """Include a file, a folder or the absence of either."""
        try:
            status = os.stat(path)  # noqa: PTH116 - a Path for each of many files would double the time
        except OSError:
            self.value = hash((self.value, 0))
            return
        changed = status.st_ctime_ns
        # Python's hash of integers is the same in every process, and the fastest.
        self.value = hash((self.value, status.st_ino, status.st_size, status.st_mtime_ns, changed))
        self.newest = max(self.newest, changed)


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
        note = read_json(self._file, Note)
        self._note = note if note and note.checks == self._checks else Note(checks=self._checks)
        self._whole: dict[str, dict[str, int]] = {}
        """Marks of folders that are as they were."""
        self._marks: dict[str, Mark] = {}
        self._watched: dict[str, list[str]] = {}
        self._doubtful: set[str] = set()

    @cached_property
    def changed(self) -> list[Path]:
        """The folders to check."""
        steps = f"{self._work}/steps"
        for parent in (parent for parent in self.parents if parent != steps):
            names = STEP_FILES if parent != self._work else RUN_FILES
            marks = self._note.marks.get(self._name(parent), {})
            whole = self._whole[self._name(parent)] = {}
            for folder in _subfolders(parent):
                if folder == steps:
                    continue
                mark = self._mark(folder, names)
                name = os.path.basename(folder)  # noqa: PTH119 - as above
                for path in self._note.watched.get(self._name(folder), ()):
                    mark.add(f"{self._work}/{path}")
                if marks.get(name) == mark.value:
                    whole[name] = mark.value
                else:
                    self._watch_all(folder, names)
        return [self.runs.work / name for name in self._marks]

    @cached_property
    def parents(self) -> list[str]:
        """The working folder and those of the steps' caches: they hold the folders to check."""
        steps = f"{self._work}/steps"
        return [self._work, steps, *_subfolders(steps)]

    def watch(self, folder: Path, path: Path) -> None:
        """Include a file, which a check of a folder is about to read, in the folder's mark."""
        name, watched = self._name(str(folder)), str(path)
        self._marks[name].add(watched)
        self._watched.setdefault(name, []).append(self._name(watched))

    def doubt(self, path: Path) -> None:
        """Check the folder with a path the next time, too."""
        parts = path.relative_to(self.runs.work).parts
        self._doubtful.add("/".join(parts[: 3 if parts[0] == "steps" else 1]))

    def save(self) -> None:
        """Note the folders that no check has doubted. If that is impossible, the next check takes longer."""
        settled = time.time_ns() - SETTLED_NANOSECONDS
        watched = {}
        for name, mark in self._marks.items():
            if name not in self._doubtful and mark.newest < settled:
                parent, _, own = name.rpartition("/")
                self._whole[parent][own] = mark.value
                if name in self._watched:
                    watched[name] = self._watched[name]
        for name, paths in self._note.watched.items():
            parent, _, own = name.rpartition("/")
            if name not in self._marks and own in self._whole.get(parent, {}):
                watched[name] = paths
        note = Note(checks=self._checks, marks=self._whole, watched=watched)
        if note != self._note and len(text := note.model_dump_json()) <= MAX_BYTES:
            with contextlib.suppress(UserError):
                write_text(self._file, text)

    def _mark(self, folder: str, names: tuple[str, ...]) -> Mark:
        mark = Mark()
        mark.add(folder)
        for name in names:
            mark.add(f"{folder}/{name}")
        return mark

    def _watch_all(self, folder: str, names: tuple[str, ...]) -> None:
        """Mark a folder anew, with the folders below it: temporary files may be anywhere."""
        name = self._name(folder)
        self._marks[name] = self._mark(folder, names)
        stack = list(_subfolders(folder, follow_links=False))
        while stack:
            below = stack.pop()
            self.watch(Path(folder), Path(below))  # before it is listed
            stack += _subfolders(below, follow_links=False)

    def _name(self, path: str) -> str:
        return path[len(self._work) + 1 :]


def _subfolders(folder: str, *, follow_links: bool = True) -> list[str]:
    """Return the folders in a folder; none if it is missing, unreadable, or no folder."""
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        return [entry.path for entry in entries if entry.is_dir(follow_symlinks=follow_links)]
    return []


def digest_of_checks() -> str:
    """Return a digest of all that decides whether a file is damaged: another version may look for more."""
    digest = hashlib.sha256(f"{sys.version} {VERSION}".encode())
    for file in sorted(COMPONENTS.rglob("*.py")):
        digest.update(file.read_bytes())
    return digest.hexdigest()
