"""What decides the result of a step, the key that is its digest, and what changed since the last time, in words."""

import hashlib
import json
import os
import platform
from collections.abc import Iterator, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from torchmill.components.config import RunConfig, deciding, sections
from torchmill.components.data.config import DataConfig, dataset_names, dataset_place
from torchmill.components.initialization.config import TORCHVISION, ModelConfig
from torchmill.components.refs import FileRef, FitRef, NetworkRef, Ref
from torchmill.components.section import Section
from torchmill.components.training.config import TrainConfig
from torchmill.components.user_code import source_code
from torchmill.components.user_code.reference import source_file

ROOT = Path(__file__).parents[2]

# Per step: the code of ours that does it, and the libraries that decide what comes out. `<data.name>` is a setting.
CODE = {
    "fetch": ("components/data/fetch.py", "components/data/datasets/<data.kind>.py"),
    "inspect": ("components/data/inspection/inspect.py",),
    "initialize": ("components/initialization/build.py",),
    "check": ("components/doctor/check.py", "components/doctor/examine.py", "components/initialization/build.py"),
    "fit": ("components/training/fit.py", "components/data/samples.py"),
    "evaluate": ("components/evaluation/evaluate.py", "components/initialization/build.py"),
    "export": ("components/export/export.py", "components/initialization/build.py"),
    "register": (),
    "promote": ("components/evaluation/comparison/champion.py",),
}
LIBRARIES = {
    "fetch": ("numpy",),
    "inspect": ("numpy",),
    "initialize": ("torch", "torchvision"),
    "check": ("torch",),
    "fit": ("torch", "torchvision", "numpy"),
    "evaluate": ("torch", "numpy", "scipy", "scikit-learn", "captum", "pillow", "matplotlib"),
    "export": ("torch", "onnx", "onnxscript", "onnxruntime"),
    "register": ("mlflow",),
    "promote": ("mlflow", "numpy", "onnxruntime"),
}


class StepFingerprint(BaseModel):
    """What decides a result."""

    model_config = ConfigDict(frozen=True)

    settings: dict[str, str]
    """By dotted name, as in the configuration."""
    code: dict[str, dict[str, str]]
    """Digests of what each source file defines."""
    versions: dict[str, str]
    """Of libraries and of Python."""
    inputs: dict[str, str]
    """Digests of what earlier steps gave, by what it is."""
    places: dict[str, str] = Field({}, exclude=True)
    """Where source files are, as a user would open them. It decides nothing."""

    @property
    def key(self) -> str:
        return hashlib.sha256(json.dumps(self.model_dump(), sort_keys=True).encode()).hexdigest()

    def distance(self, other: "StepFingerprint") -> int:
        """Count what differs."""
        return len(self._differences(other))

    def changed_to(self, now: "StepFingerprint") -> str:
        """Say what changed; where there is a cause, what follows from it is left out."""
        differences = self._differences(now)
        causes = [text for kind, text in differences if kind != "input"]
        told = causes or [text for _, text in differences]
        return "; ".join(told[:4]) + (f"; and {len(told) - 4} more" if len(told) > 4 else "")

    def _differences(self, now: "StepFingerprint") -> Sequence[tuple[str, str]]:
        found = []
        for name, old, new in _differing(self.settings, now.settings):
            found.append(("setting", f"{name} {_short(old)} → {_short(new)}"))
        changed: dict[str, list[str]] = {}
        for file, what in source_code.changes(self.code, now.code):
            changed.setdefault(file, []).append(what)
        for file, whats in changed.items():
            found.append(("code", f"{now.places.get(file, file)} changed: {', '.join(whats)}"))
        for name, old, new in _differing(self.versions, now.versions):
            found.append(("version", f"{name} {old} → {new}"))
        for name, old, new in _differing(self.inputs, now.inputs):
            found.append(("input", f"{name} changed: {old[:8]}… → {new[:8]}…"))
        return found


def of_step(step: str, arguments: Mapping[str, Any]) -> StepFingerprint:
    """Gather what decides a step from its arguments: sections of the configuration, plain values and refs."""
    settings: dict[str, str] = {}
    inputs: dict[str, str] = {}
    references = []
    for name, argument in arguments.items():
        match argument:
            case Section():
                settings |= _of_section(argument)
                references += user_code(argument)
            case (NetworkRef() as network) | FitRef(network=network):
                settings |= _of_network(network)
                inputs |= argument.identity()
                references.append(network.reference)
            case Ref():
                inputs |= argument.identity()
            case _:
                settings[name] = str(argument)
    return _gather([step], settings, inputs, references)


def of_run(config: RunConfig, tracking: str) -> StepFingerprint:
    """Gather what decides a whole run, as far as it is known before anything is done: all but the data's content.

    Args:
        tracking: where it is recorded.
    """
    settings = {"device": config.device, "seed": str(config.seed), "name": str(config.name), "MLflow": tracking}
    for section in sections():
        settings |= _of_section(getattr(config, section))
    settings["registered name"] = config.registered_name
    # They decide nothing about the data, but whether there is a result at all.
    settings |= {f"data.{name}": str(getattr(config.data, name)) for name in ("leakage_limit", "allow_leakage")}
    references = [name for section in sections() for name in user_code(getattr(config, section))]
    return _gather(list(CODE), settings, {}, references)


def our_source() -> str:
    """Digest of Torchmill's own code, as far as it decides results."""
    files = sorted({file for files in CODE.values() for file in files if "<" not in file})
    found = [source_code.closure(ROOT / file, ROOT).definitions for file in files]
    return hashlib.sha256(json.dumps(found).encode()).hexdigest()[:16]


def _gather(
    steps: Sequence[str], settings: dict[str, str], inputs: dict[str, str], references: Sequence[str]
) -> StepFingerprint:
    code: dict[str, dict[str, str]] = {}
    places: dict[str, str] = {}
    versions = {"Python": ".".join(platform.python_version_tuple()[:2])}
    for step in steps:
        for file in CODE[step]:
            named = file.replace("<data.kind>", dataset_place(settings.get("data.name", ""))[0])
            if (ROOT / named).is_file():  # which it isn't where the data is the user's own function
                code |= source_code.closure(ROOT / named, ROOT).definitions
        versions |= {library: metadata.version(library) for library in LIBRARIES[step]}
    for reference in references:
        source = source_of(reference)
        code |= source.definitions
        places |= {name: os.path.relpath(file) for name, file in source.files.items()}
        versions = source.libraries | versions
    return StepFingerprint(settings=settings, code=code, versions=versions, inputs=inputs, places=places)


def source_of(reference: str) -> source_code.SourceCode:
    """The source of a network, a loss or data: its file and what that imports from the same tree."""
    place = reference.rpartition(":")[0]
    if place == TORCHVISION:
        return source_code.closure(ROOT / "components" / "initialization" / "torchvision.py", ROOT)
    if not place:
        return source_code.closure(ROOT / "components" / "models" / f"{reference}.py", ROOT)
    return source_code.closure(source_file(place))


def _of_section(section: Section) -> dict[str, str]:
    prefix = next(name for name, kind in sections().items() if type(section) is kind)
    values = {f"{prefix}.{name}": value for name, value in deciding(section).items()}
    if isinstance(section, ModelConfig):
        values["model.name"] = _without_folder(section.name)
        if section.weights and Path(section.weights).expanduser().is_file():
            values["model.weights"] = FileRef.of(Path(section.weights).expanduser()).sha256
    if isinstance(section, TrainConfig):
        values["train.loss"] = _without_folder(section.loss)
    if isinstance(section, DataConfig):
        values["data.name"] = _without_folder(section.name)
    return values


def user_code(section: Section) -> list[str]:
    """References to code that a section names: a network, the user's own loss or data."""
    match section:
        case ModelConfig():
            return [section.name]
        case TrainConfig():
            return [section.loss] if ":" in section.loss else []
        case DataConfig():
            kind, path = dataset_place(section.name)
            return [section.name] if path and kind not in dataset_names() else []
    return []


def _of_network(network: NetworkRef) -> dict[str, str]:
    return {
        "model.name": _without_folder(network.reference),
        "model.args": json.dumps(network.arguments, sort_keys=True),
        "model.freeze": ",".join(network.freeze),
    }


def _without_folder(reference: str) -> str:
    """A reference that is the same from wherever the file is named: its source is told apart by content."""
    place, colon, name = reference.rpartition(":")
    return f"{Path(place).name}{colon}{name}" if place.endswith(".py") else reference


def _differing(before: Mapping[str, str], now: Mapping[str, str]) -> Iterator[tuple[str, str, str]]:
    """Give each name whose value differs, in order, with both values; one that is missing is ``none``."""
    for name in sorted({**before, **now}):
        old, new = before.get(name, "none"), now.get(name, "none")
        if old != new:
            yield name, old, new


def _short(value: str) -> str:
    return value if len(value) <= 60 else f"{value[:57]}…"
