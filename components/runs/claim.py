"""Claim a run for a command: begin a new one, resume an interrupted one, or find that it is done."""

import contextlib
import json
import logging
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import AliasChoices, BaseModel, ConfigDict, Field

from torchmill.components.config import RunConfig
from torchmill.components.files import append_to, locked, write_text
from torchmill.components.refs import TrainResult
from torchmill.components.runs.checked_folders import CheckedFolders
from torchmill.components.runs.fingerprint import StepFingerprint
from torchmill.components.runs.folders import Runs
from torchmill.components.runs.step_cache import StepCache, is_intact
from torchmill.components.state_files import (
    Damaged,
    fitting,
    is_file_name,
    log_once,
    read_json,
    read_lines,
    set_aside,
    validated,
)

logger = logging.getLogger("torchmill")


class Manifest(BaseModel):
    """A run's description in its folder (``run.json``)."""

    model_config = ConfigDict(frozen=True, populate_by_name=True)

    name: str
    config: RunConfig
    fingerprint: StepFingerprint = Field(validation_alias=AliasChoices("fingerprint", "ingredients"))
    fresh: bool
    process: int = Field(default_factory=os.getpid)
    """Id of the latest process. Whether it is still at work, its lock says."""

    @classmethod
    def of(cls, folder: Path) -> "Manifest | None":
        """Read the manifest in a run's folder; None if it is missing, damaged, or of another version."""
        file = folder / "run.json"
        plain = read_json(file, dict)
        return None if plain is None else fitting(plain, cls, file)


@dataclass
class Claim:
    """A run that this process holds until it exits, or one that is done."""

    folder: Path
    manifest: Manifest
    is_resumed: bool = False
    result: TrainResult | None = None
    """Result of an equal run whose files are intact, so that there is nothing to do."""
    locks: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)
    """Locks of the run; closing them releases the run."""

    def update_manifest(self, **changes: Any) -> None:
        """Change fields of the manifest, and write it."""
        self.manifest = self.manifest.model_copy(update=changes)
        write_text(self.folder / "run.json", self.manifest.model_dump_json(indent=1))

    def publish(self) -> None:
        """Publish the result that was saved: from now on, equal commands find it."""
        (self.folder / "concluded.json").replace(self.folder / "result.json")


def save_result(runs: Runs, result: TrainResult) -> None:
    """Write a run's result. Equal commands find it once ``Claim.publish`` was called."""
    plain = StepCache(runs).portable(result.model_dump(mode="json"))
    write_text(result.folder / "concluded.json", json.dumps(plain, indent=1))


Check = Callable[[TrainResult], bool]
"""Function that returns True if MLflow still has a result's run and model version."""


def find_result(runs: Runs, fingerprint: StepFingerprint, is_recorded: Check = lambda _: True) -> TrainResult | None:
    """Return the result of an equal run whose files, data included, are intact. Imports no torch."""
    cache = StepCache(runs)
    for folder in _folders(runs, fingerprint.key):
        if (plain := read_json(folder / "result.json", dict)) is None:
            continue
        try:
            result = validated(cache.localized(plain), TrainResult)
        except Damaged:  # written by another version
            continue
        if result.folder.name != folder.name:
            continue
        # Other data may have been fetched under the same name since, so the data itself is checked.
        later = {name: step for name, step in result.steps.items() if name != "fetch"}
        has_files = result.report.is_file() and is_intact(result.data)
        if has_files and all(cache.find(name, step.key) for name, step in later.items()) and is_recorded(result):
            cached = {"state": "cached", "why": f"from run {result.name}"}
            steps = {name: step.model_copy(update=cached) for name, step in result.steps.items()}
            return result.model_copy(update={"steps": steps})
    return None


def claim(
    runs: Runs,
    fingerprint: StepFingerprint,
    config: RunConfig,
    folder_name: str,
    name: str,
    fresh: bool,
    is_recorded: Check = lambda _: True,
) -> Claim:
    """Claim an interrupted run with the same fingerprint, or a new one; or find that one is done.

    Wait if another process is doing the same run, then look again.

    Args:
        folder_name: folder of a new run; a number is appended if it exists.
        name: name of a new run.
        fresh: begin a new run in any case.
    """
    while True:
        with locked(runs.work / "claims.lock"):
            if fresh:
                return _begin(runs, fingerprint, config, folder_name, name, fresh)
            if result := find_result(runs, fingerprint, is_recorded):
                manifest = Manifest(name=result.name, config=config, fingerprint=fingerprint, fresh=False)
                return Claim(result.folder, manifest, result=result)
            interrupted = _interrupted(runs, fingerprint.key)
            if interrupted is None:
                return _begin(runs, fingerprint, config, folder_name, name, fresh)
            folder, manifest = interrupted
            locks = contextlib.ExitStack()
            if locks.enter_context(locked(folder / "alive.lock", wait=False)):
                resumed = Claim(folder, manifest, is_resumed=True, locks=locks)
                resumed.update_manifest(process=os.getpid())
                return resumed
            locks.close()
        logger.info("run %s, process %d, is doing the same: waiting for it", manifest.name, manifest.process)
        with locked(folder / "alive.lock"):
            pass


def _interrupted(runs: Runs, key: str) -> tuple[Path, Manifest] | None:
    """Return the latest run with a key that has no result, with its manifest."""
    for folder in _folders(runs, key):
        if not (folder / "result.json").is_file() and (manifest := Manifest.of(folder)):
            return folder, manifest
    return None


def is_alive(folder: Path) -> bool:
    """Return True if a process is at work on a run: it holds a lock that the system frees when it dies."""
    file = folder / "alive.lock"
    if not file.is_file():
        return False
    with locked(file, wait=False) as is_free:
        return not is_free


def _begin(
    runs: Runs, fingerprint: StepFingerprint, config: RunConfig, folder_name: str, name: str, fresh: bool
) -> Claim:
    for suffix in ("", *(f"-again-{number}" for number in range(1, 1000))):
        folder = runs.work / f"{folder_name}{suffix}"
        with contextlib.suppress(FileExistsError):
            folder.mkdir()
            break
    locks = contextlib.ExitStack()
    locks.enter_context(locked(folder / "alive.lock"))
    manifest = Manifest(name=name, config=config, fingerprint=fingerprint, fresh=fresh)
    write_text(folder / "run.json", manifest.model_dump_json(indent=1))
    index = _index(runs, fingerprint.key)
    _append(index, folder.name)
    return Claim(folder, manifest, locks=locks)


def _folders(runs: Runs, key: str) -> Iterator[Path]:
    """Yield the folders of the runs with a key, the latest first."""
    for name in reversed(_names(_index(runs, key))):
        if (runs.work / name / "run.json").is_file():
            yield runs.work / name


def _names(index: Path) -> list[str]:
    """Return the folder names in an index; lines that are none are left out, with a warning."""
    lines = [line.decode(errors="replace") for line in read_lines(index)]
    for line in lines:
        if line and not is_file_name(line):
            log_once((index, line), "%s is damaged: %.100r is no name of a run's folder, and is left out.", index, line)
    return [line for line in lines if is_file_name(line)]


def _append(index: Path, name: str) -> None:
    index.parent.mkdir(exist_ok=True)
    lines = read_lines(index)
    if index.is_symlink():
        set_aside(index, "it is a link")
    try:
        with append_to(index) as file:
            cut_off = b"\n" if lines and lines[-1] else b""  # by a kill
            file.write(cut_off + f"{name}\n".encode())
    except OSError as error:  # the run itself needs no index
        log_once(index, "Cannot write %s: %s. An equal command won't find this run.", index, error.strerror)


def mend_index(folders: CheckedFolders, dry_run: bool) -> list[str]:
    """Complete the index of keys from the manifests of the runs to check, and return a line on each change.

    Args:
        dry_run: change nothing.
    """
    lines = []
    manifests = [folder / "run.json" for folder in folders.changed if (folder / "run.json").is_file()]
    for folder in (path.parent for path in sorted(manifests, key=lambda path: path.lstat().st_mtime)):
        manifest = Manifest.of(folder)
        if manifest is None:
            continue
        index = _index(folders.runs, manifest.fingerprint.key)
        folders.watch(folder, index)
        if folder.name not in _names(index):
            folders.doubt(folder)
            if not dry_run:
                with locked(folders.runs.work / "claims.lock"):
                    _append(index, folder.name)
            lines.append(f"run {manifest.name}: {'to be' if dry_run else 'is'} found again by an equal command")
    return lines


def _index(runs: Runs, key: str) -> Path:
    return runs.work / "keys" / key[:32]
