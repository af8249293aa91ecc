"""Claim a run for a command: begin a new one, resume an interrupted one, or find that it is done."""

import contextlib
import json
import logging
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import AliasChoices, BaseModel, ConfigDict, Field

from torchmill.components.config import RunConfig
from torchmill.components.files import append_to, locked, write_text
from torchmill.components.refs import TrainResult
from torchmill.components.runs.fingerprint import StepFingerprint
from torchmill.components.runs.folders import Runs
from torchmill.components.runs.step_cache import StepCache, is_intact

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
    def of(cls, folder: Path) -> "Manifest":
        """Read the manifest in a run's folder."""
        return cls.model_validate_json((folder / "run.json").read_bytes())


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


def find_result(runs: Runs, fingerprint: StepFingerprint) -> TrainResult | None:
    """Return the result of an equal run whose files, data included, are intact. Imports no torch."""
    cache = StepCache(runs)
    for folder in _folders(runs, fingerprint.key):
        try:
            plain = json.loads((folder / "result.json").read_bytes())
            result = TrainResult.model_validate(cache.localized(plain))
        except (OSError, ValueError):  # not done, damaged, or written by another version
            continue
        # Other data may have been fetched under the same name since, so the data itself is checked.
        later = {name: step for name, step in result.steps.items() if name != "fetch"}
        has_files = result.report.is_file() and is_intact(result.data)
        if has_files and all(cache.find(name, step.key) for name, step in later.items()):
            cached = {"state": "cached", "why": f"from run {result.name}"}
            steps = {name: step.model_copy(update=cached) for name, step in result.steps.items()}
            return result.model_copy(update={"steps": steps})
    return None


def claim(
    runs: Runs, fingerprint: StepFingerprint, config: RunConfig, folder_name: str, name: str, fresh: bool
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
            if result := find_result(runs, fingerprint):
                return Claim(result.folder, Manifest.of(result.folder), result=result)
            interrupted = [
                folder for folder in _folders(runs, fingerprint.key) if not (folder / "result.json").is_file()
            ]
            if not interrupted:
                return _begin(runs, fingerprint, config, folder_name, name, fresh)
            locks = contextlib.ExitStack()
            if locks.enter_context(locked(interrupted[0] / "alive.lock", wait=False)):
                resumed = Claim(interrupted[0], Manifest.of(interrupted[0]), is_resumed=True, locks=locks)
                resumed.update_manifest(process=os.getpid())
                return resumed
            locks.close()
        manifest = Manifest.of(interrupted[0])
        logger.info("run %s, process %d, is doing the same: waiting for it", manifest.name, manifest.process)
        with locked(interrupted[0] / "alive.lock"):
            pass


def is_alive(folder: Path) -> bool:
    """Return True if a process is at work on a run: it holds a lock that the system frees when it dies."""
    with locked(folder / "alive.lock", wait=False) as is_free:
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
    index.parent.mkdir(exist_ok=True)
    with append_to(index) as file:
        file.write(f"{folder.name}\n".encode())
    return Claim(folder, manifest, locks=locks)


def _folders(runs: Runs, key: str) -> Iterator[Path]:
    """Yield the folders of the runs with a key, the latest first."""
    try:
        names = _index(runs, key).read_text().split()
    except FileNotFoundError:
        return
    for name in reversed(names):
        if (runs.work / name / "run.json").is_file():
            yield runs.work / name


def _index(runs: Runs, key: str) -> Path:
    return runs.work / "keys" / key[:32]
