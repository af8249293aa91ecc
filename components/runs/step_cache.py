"""Results of steps, kept by key: what was done already is not done again."""

import contextlib
import logging
import time
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, TypeAdapter, ValidationError

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

logger = logging.getLogger("torchmill")

KINDS: dict[str, type] = {
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

COMPARED = 200  # earlier results at most, the latest

HERE = "<runs>"  # stands for the folder of the runs, so that it can be moved


class CachedResult(BaseModel):
    """A result with what decided it."""

    ingredients: StepFingerprint
    run: str
    """Folder name of the run that gave it."""
    run_name: str
    result: Any
    made: float
    """Seconds since 1970."""


@dataclass(frozen=True)
class Results:
    """All kept results of a folder of runs: ``work/steps/STEP/KEY/result.json``, with what a half-done step keeps."""

    runs: Runs

    def folder(self, step: str, key: str) -> Path:
        """The place of one step's result, and of its checkpoints while it is not there yet."""
        return self.runs.work / "steps" / step / key[:32]

    @contextlib.contextmanager
    def claimed(self, step: str, key: str) -> Generator[None]:
        """Be the only one at work on a step; whoever comes later waits, and then finds the result."""
        folder = self.folder(step, key)
        folder.mkdir(parents=True, exist_ok=True)
        with contextlib.ExitStack() as held:
            if not held.enter_context(locked(folder / "lock", wait=False)):
                logger.info("%s  another run is at it with the same settings: waiting for its result", step)
                held.enter_context(locked(folder / "lock"))
            yield

    def keep(self, step: str, ingredients: StepFingerprint, run: RunRef, result: object) -> None:
        """Keep a result, in the place of an earlier one of the same key."""
        plain = TypeAdapter(type(result)).dump_python(result, mode="json")
        kept = CachedResult(
            ingredients=ingredients,
            run=run.folder.name,
            run_name=run.name,
            result=self.portable(plain),
            made=time.time(),
        )
        folder = self.folder(step, ingredients.key)
        folder.mkdir(parents=True, exist_ok=True)
        write_text(folder / "result.json", kept.model_dump_json(indent=1))

    def find(self, step: str, key: str) -> tuple[Any, CachedResult] | None:
        """Give the result of that key if there is one and every file of it is what it was."""
        kept = self._read(self.folder(step, key) / "result.json")
        if kept is None:
            return None
        try:
            result = TypeAdapter(KINDS[step]).validate_python(self.localized(kept.result))
        except ValidationError:  # of another version
            return None
        return (result, kept) if all(is_intact(ref) for ref in _refs(result)) else None

    def why(self, step: str, ingredients: StepFingerprint) -> str:
        """Say what makes a step run: what is new beside the earlier result that is the most like it."""
        paths = sorted(self.folder(step, "").glob("*/result.json"), key=lambda path: -path.stat().st_mtime)
        earlier = [kept for path in paths[:COMPARED] if (kept := self._read(path))]
        if not earlier:
            return "for the first time"
        nearest = min(earlier, key=lambda kept: (kept.ingredients.distance(ingredients), -kept.made))
        if nearest.ingredients.key == ingredients.key:
            return "a file of its result is gone or changed"
        return nearest.ingredients.changed_to(ingredients)

    def _read(self, path: Path) -> CachedResult | None:
        try:
            return CachedResult.model_validate_json(path.read_bytes())
        except (OSError, ValidationError):  # none; or of another version, which is as good as none
            return None

    def portable(self, value: Any) -> Any:
        """Write paths below the folder of the runs as ``<runs>/…``."""
        return _moved(value, str(self.runs.folder), HERE)

    def localized(self, value: Any) -> Any:
        """Undo ``portable``, in the place where the runs are now."""
        return _moved(value, HERE, str(self.runs.folder))


def _moved(value: Any, old: str, new: str) -> Any:
    """Replace the folder that paths begin with, however deep they lie in plain values."""
    match value:
        case dict():
            return {name: _moved(held, old, new) for name, held in value.items()}
        case list():
            return [_moved(held, old, new) for held in value]
        case str() if value.startswith(f"{old}/"):
            return new + value.removeprefix(old)
    return value


def _refs(value: object) -> Iterator[FileRef | DataRef]:
    if isinstance(value, FileRef | DataRef):
        yield value
    elif isinstance(value, BaseModel):
        for name in type(value).model_fields:
            yield from _refs(getattr(value, name))
    elif isinstance(value, tuple):
        for held in value:
            yield from _refs(held)


def is_intact(ref: FileRef | DataRef) -> bool:
    if isinstance(ref, DataRef):
        from torchmill.components.data.fetch import prepared

        return prepared(ref.name, data_cache(), args=ref.args) == ref
    try:
        return FileRef.of(ref.path) == ref
    except OSError:
        return False
