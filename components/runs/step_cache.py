"""The step cache: results of steps by the key of their fingerprint."""

import contextlib
import heapq
import logging
import os
import time
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, AliasChoices, BaseModel, ConfigDict, Field, TypeAdapter

from torchmill.components.files import locked, write_text
from torchmill.components.refs import (
    CheckRef,
    DataRef,
    EvaluationRef,
    ExportRef,
    FileRef,
    FitRef,
    InspectionRef,
    NetworkRef,
    PromotionRef,
    RunRef,
)
from torchmill.components.runs.fingerprint import StepFingerprint
from torchmill.components.runs.folders import Runs, data_cache
from torchmill.components.state_files import Damaged, is_file_name, read_json, validated

logger = logging.getLogger("torchmill")

RESULT_TYPES: dict[str, type] = {
    "fetch": DataRef,
    "inspect": InspectionRef,
    "initialize": NetworkRef,
    "check": CheckRef,
    "fit": FitRef,
    "evaluate": EvaluationRef,
    "export": ExportRef,
    "register": str,
    "promote": PromotionRef,
}
"""Types of the steps' results."""

MAX_COMPARED = 200
"""Number of the latest results that a new fingerprint is compared with."""

RUNS_FOLDER = "<runs>"
"""Placeholder for the folder of the runs in stored paths, so that the folder can be moved."""


def _folder_name(text: str) -> str:
    if not is_file_name(text):
        raise ValueError("no name of a folder")
    return text


class CachedResult(BaseModel):
    """A step's result, with the fingerprint that decided it."""

    model_config = ConfigDict(populate_by_name=True)

    fingerprint: StepFingerprint = Field(validation_alias=AliasChoices("fingerprint", "ingredients"))
    run: Annotated[str, AfterValidator(_folder_name)]
    """Folder name of the run that computed it."""
    run_name: str
    result: Any
    created: float = Field(validation_alias=AliasChoices("created", "made"))
    """Seconds since 1970."""


@dataclass(frozen=True)
class StepCache:
    """The cached results in a folder of runs: ``work/steps/STEP/KEY/result.json``, beside unfinished steps' files.

    Example:
        >>> cache = StepCache(Runs.here())
        >>> if entry := cache.find("fit", fingerprint.key):
        ...     result, cached = entry
    """

    runs: Runs

    def folder(self, step: str, key: str) -> Path:
        """Return the folder of a step's result, and of its checkpoints until it has one."""
        return self.runs.work / "steps" / step / key[:32]

    @contextlib.contextmanager
    def lock(self, step: str, key: str) -> Generator[None]:
        """Lock a step, so that one process works on it while others wait and then find its result."""
        folder = self.folder(step, key)
        folder.mkdir(parents=True, exist_ok=True)
        with contextlib.ExitStack() as locks:
            if not locks.enter_context(locked(folder / "lock", wait=False)):
                logger.info("%s  another run does this step with the same settings: waiting for its result", step)
                locks.enter_context(locked(folder / "lock"))
            yield

    def store(self, step: str, fingerprint: StepFingerprint, run: RunRef, result: object) -> None:
        """Store a result, and replace an earlier one with the same key."""
        plain = TypeAdapter(type(result)).dump_python(result, mode="json")
        entry = CachedResult(
            fingerprint=fingerprint,
            run=run.folder.name,
            run_name=run.name,
            result=self.portable(plain),
            created=time.time(),
        )
        folder = self.folder(step, fingerprint.key)
        folder.mkdir(parents=True, exist_ok=True)
        write_text(folder / "result.json", entry.model_dump_json(indent=1))

    def find(self, step: str, key: str) -> tuple[Any, CachedResult] | None:
        """Return the result with a key and its entry, if all its files are unchanged."""
        entry = self._read(self.folder(step, key) / "result.json")
        if entry is None:
            return None
        try:
            result = validated(self.localized(entry.result), RESULT_TYPES[step])
        except Damaged:  # written by another version
            return None
        return (result, entry) if all(is_intact(ref) for ref in _refs(result)) else None

    def explain(self, step: str, fingerprint: StepFingerprint) -> str:
        """Return in words why a step has to run: its difference from the most similar cached result."""
        entries = [entry for path in self._latest(step) if (entry := self._read(path / "result.json"))]
        if not entries:
            return "for the first time"
        nearest = min(entries, key=lambda entry: (entry.fingerprint.distance(fingerprint), -entry.created))
        if nearest.fingerprint.key == fingerprint.key:
            return "a file of its result is gone or changed"
        return nearest.fingerprint.changed_to(fingerprint)

    def _latest(self, step: str) -> list[Path]:
        """Return the folders of a step that were written to last. There may be many thousands."""
        with contextlib.suppress(FileNotFoundError, NotADirectoryError), os.scandir(self.folder(step, "")) as folders:
            times = {folder.path: folder.stat(follow_symlinks=False).st_mtime for folder in folders}
            return [Path(path) for path in heapq.nlargest(MAX_COMPARED, times, key=times.__getitem__)]
        return []

    def _read(self, path: Path) -> CachedResult | None:
        plain = read_json(path, dict)
        try:
            return None if plain is None else validated(plain, CachedResult)
        except Damaged:  # written by another version
            return None

    def portable(self, value: Any) -> Any:
        """Return a value whose paths below the folder of the runs begin with ``<runs>``."""
        return _with_prefix(value, str(self.runs.folder), RUNS_FOLDER)

    def localized(self, value: Any) -> Any:
        """Return a portable value with the folder where the runs are now.

        Raises:
            Damaged: a path leads out of that folder.
        """
        return _with_prefix(value, RUNS_FOLDER, str(self.runs.folder))


def _with_prefix(value: Any, old: str, new: str) -> Any:
    """Replace the folder at the beginning of all paths in nested dicts and lists."""
    match value:
        case dict():
            return {name: _with_prefix(item, old, new) for name, item in value.items()}
        case list():
            return [_with_prefix(item, old, new) for item in value]
        case str() if value.startswith(f"{old}/"):
            if old == RUNS_FOLDER and ".." in value.split("/"):
                raise Damaged(f"{value!r} leads out of the folder of the runs")
            return new + value.removeprefix(old)
    return value


def _refs(value: object) -> Iterator[FileRef | DataRef]:
    if isinstance(value, FileRef | DataRef):
        yield value
    elif isinstance(value, BaseModel):
        for name in type(value).model_fields:
            yield from _refs(getattr(value, name))
    elif isinstance(value, tuple):
        for item in value:
            yield from _refs(item)


def is_intact(ref: FileRef | DataRef) -> bool:
    """Return True if a file, or the files of a data set, are as they were when the reference was made."""
    if isinstance(ref, DataRef):
        # Here, since it imports numpy, which a command that finds nothing cached does not need yet.
        from torchmill.components.data.fetch import prepared

        cached = prepared(ref.name, data_cache(), args=ref.args)
        return cached is not None and cached.model_copy(update={"split": ref.split, "goal": ref.goal}) == ref
    try:
        return FileRef.of(ref.path) == ref
    except OSError:
        return False
