"""Which run a command is: a new one, one that was interrupted and goes on, or one that is done already."""

import contextlib
import json
import logging
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from torchmill.components.config import RunConfig
from torchmill.components.files import locked, write_text
from torchmill.components.refs import TrainResult
from torchmill.components.runs.fingerprint import StepFingerprint
from torchmill.components.runs.folders import Runs
from torchmill.components.runs.step_cache import Results, is_intact

logger = logging.getLogger("torchmill")


class Manifest(BaseModel):
    """What a run's folder says of it (``run.json``)."""

    model_config = ConfigDict(frozen=True)

    name: str
    config: RunConfig
    ingredients: StepFingerprint
    fresh: bool
    process: int = Field(default_factory=os.getpid)
    """The one that has worked on it last. Whether it still does is told by the lock that it holds."""

    @classmethod
    def of(cls, folder: Path) -> "Manifest":
        return cls.model_validate_json((folder / "run.json").read_bytes())


@dataclass
class Claim:
    """A run that this process holds until it ends, however it ends; or one that is done."""

    folder: Path
    manifest: Manifest
    is_resumed: bool = False
    result: TrainResult | None = None
    """Of a run that did the very same, and whose files are intact: there is nothing to do."""
    held: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)

    def note(self, **changes: Any) -> None:
        """Change what the manifest says."""
        self.manifest = self.manifest.model_copy(update=changes)
        write_text(self.folder / "run.json", self.manifest.model_dump_json(indent=1))

    def publish(self) -> None:
        """Declare the run done: from now on the same command finds its result."""
        (self.folder / "concluded.json").replace(self.folder / "result.json")


def keep(runs: Runs, result: TrainResult) -> None:
    """Write a run's result down; it counts once the run is declared done."""
    plain = Results(runs).portable(result.model_dump(mode="json"))
    write_text(result.folder / "concluded.json", json.dumps(plain, indent=1))


def finished(runs: Runs, ingredients: StepFingerprint) -> TrainResult | None:
    """Give the result of a run that did the very same and whose files, data included, are intact; without torch."""
    results = Results(runs)
    for folder in _folders(runs, ingredients.key):
        try:
            plain = json.loads((folder / "result.json").read_bytes())
            result = TrainResult.model_validate(results.localized(plain))
        except (OSError, ValueError):  # not done; or damaged, or of another version: as good as not done
            continue
        # The data is looked at itself: what was fetched last under its name may be another.
        later = {name: step for name, step in result.steps.items() if name != "fetch"}
        there = result.report.is_file() and is_intact(result.data)
        if there and all(results.find(name, step.key) for name, step in later.items()):
            cached = {"state": "cached", "why": f"from run {result.name}"}
            steps = {name: step.model_copy(update=cached) for name, step in result.steps.items()}
            return result.model_copy(update={"steps": steps})
    return None


def claim(runs: Runs, ingredients: StepFingerprint, config: RunConfig, new: str, name: str, fresh: bool) -> Claim:
    """Take hold of the run that was interrupted, or of a new folder; or find that all is done.

    While another process is at the very same it is waited for; what that leaves is looked at then.

    Args:
        new: the folder's name, if it is a new run; numbered where it is taken.
        name: the run's, if it is a new one.
        fresh: begin a new one in any case.
    """
    while True:
        with locked(runs.work / "claims.lock"):
            if fresh:
                return _begin(runs, ingredients, config, new, name, fresh)
            if result := finished(runs, ingredients):
                return Claim(result.folder, Manifest.of(result.folder), result=result)
            interrupted = [
                folder for folder in _folders(runs, ingredients.key) if not (folder / "result.json").is_file()
            ]
            if not interrupted:
                return _begin(runs, ingredients, config, new, name, fresh)
            held = contextlib.ExitStack()
            if held.enter_context(locked(interrupted[0] / "alive.lock", wait=False)):
                taken = Claim(interrupted[0], Manifest.of(interrupted[0]), is_resumed=True, held=held)
                taken.note(process=os.getpid())
                return taken
            held.close()
        manifest = Manifest.of(interrupted[0])
        logger.info("run %s, process %d, is at the very same: waiting for it", manifest.name, manifest.process)
        with locked(interrupted[0] / "alive.lock"):
            pass


def is_alive(folder: Path) -> bool:
    """Tell whether a process is at work on a run: it holds a lock, which the system frees when it dies."""
    with locked(folder / "alive.lock", wait=False) as free:
        return not free


def _begin(runs: Runs, ingredients: StepFingerprint, config: RunConfig, new: str, name: str, fresh: bool) -> Claim:
    for wanted in (f"{new}{again}" for again in ("", *(f"-again-{number}" for number in range(1, 1000)))):
        folder = runs.work / wanted
        with contextlib.suppress(FileExistsError):
            folder.mkdir()
            break
    held = contextlib.ExitStack()
    held.enter_context(locked(folder / "alive.lock"))
    manifest = Manifest(name=name, config=config, ingredients=ingredients, fresh=fresh)
    write_text(folder / "run.json", manifest.model_dump_json(indent=1))
    index = _index(runs, ingredients.key)
    index.parent.mkdir(exist_ok=True)
    with index.open("a") as file:
        file.write(f"{folder.name}\n")
    return Claim(folder, manifest, held=held)


def _folders(runs: Runs, key: str) -> Iterator[Path]:
    """Folders of the runs of that key, the latest first."""
    try:
        names = _index(runs, key).read_text().split()
    except FileNotFoundError:
        return
    for name in reversed(names):
        if (runs.work / name / "run.json").is_file():
            yield runs.work / name


def _index(runs: Runs, key: str) -> Path:
    return runs.work / "keys" / key[:32]
