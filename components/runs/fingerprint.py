"""Fingerprint of a step: all that decides its result, the key that is its digest, and changes since an earlier one."""

import hashlib
import json
import os
import platform
from collections.abc import Iterator, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from torchmill.components import fields
from torchmill.components.config import RunConfig, deciding, sections
from torchmill.components.data.config import AUGMENTATIONS, DATASETS, DataConfig, dataset_names, dataset_place
from torchmill.components.field_tasks.config import AUTO, TaskConfig
from torchmill.components.fields import FIELDS
from torchmill.components.initialization.config import MODELS, SCHEMES, TORCHVISION, ModelConfig
from torchmill.components.refs import DataRef, FileRef, FitRef, NetworkRef, Ref
from torchmill.components.settings.section import Section
from torchmill.components.tasks import TASKS, field_tasks
from torchmill.components.training.config import LOSSES, OPTIMIZERS, SCHEDULES, TrainConfig
from torchmill.components.user_code import source_code
from torchmill.components.user_code.reference import source_file

ROOT = Path(__file__).parents[2]

CODE = {
    "fetch": ("components/data/fetch.py", "components/field_tasks/choice.py"),
    "inspect": ("components/data/inspection/inspect.py",),
    "initialize": ("components/initialization/build.py",),
    "check": ("components/doctor/check.py", "components/doctor/examine.py", "components/initialization/build.py"),
    "fit": ("components/training/fit.py", "components/data/samples.py"),
    "evaluate": (
        "components/evaluation/evaluate.py",
        "components/evaluation/field_evaluation.py",
        "components/initialization/build.py",
    ),
    "export": (
        "components/export/export.py",
        "components/export/field_export.py",
        "components/initialization/build.py",
    ),
    "register": (),
    "promote": (
        "components/evaluation/comparison/champion.py",
        "components/evaluation/comparison/field_champion.py",
    ),
}
"""Our code that does each step. Options are found by their files, and data sets by their names."""

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
"""Libraries that decide the result of each step."""

ROOMS = (AUGMENTATIONS, LOSSES, OPTIMIZERS, SCHEDULES, SCHEMES, TASKS, FIELDS)
"""Rooms whose options decide results."""


OURS = ("components/", "flows/", "src/torchmill/")
"""Beginnings of the names of our own source files in a fingerprint."""
FEW_FILES = 3
"""Most changed files of our own that are listed; with more, only their number is."""


class StepFingerprint(BaseModel):
    """All that decides the result of a step."""

    model_config = ConfigDict(frozen=True)

    settings: dict[str, str]
    """Values by dotted name, as in the configuration."""
    code: dict[str, dict[str, str]]
    """Digests of the definitions in each source file."""
    versions: dict[str, str]
    """Versions of libraries and of Python."""
    inputs: dict[str, str]
    """Digests of the results of earlier steps, by kind."""
    places: dict[str, str] = Field({}, exclude=True)
    """Paths of source files, as a user would open them; no part of the key."""

    @property
    def key(self) -> str:
        return hashlib.sha256(json.dumps(self.model_dump(), sort_keys=True).encode()).hexdigest()

    def distance(self, other: "StepFingerprint") -> int:
        """Count the differences."""
        return len(self._differences(other))

    def changed_to(self, now: "StepFingerprint") -> str:
        """Describe the changes; if settings, code or versions changed, changed inputs follow from them."""
        differences = self._differences(now)
        causes = [text for kind, text in differences if kind != "input"]
        texts = causes or [text for _, text in differences]
        return "; ".join(texts[:4]) + (f"; and {len(texts) - 4} more" if len(texts) > 4 else "")

    def _differences(self, now: "StepFingerprint") -> Sequence[tuple[str, str]]:
        texts = []
        for name, old, new in _differing(self.settings, now.settings):
            texts.append(("setting", f"{name} {_short(old)} → {_short(new)}"))
        changed: dict[str, list[str]] = {}
        for file, change in source_code.changes(self.code, now.code):
            changed.setdefault(file, []).append(change)
        ours = [file for file in changed if file.startswith(OURS) and file not in now.places]
        if len(ours) > FEW_FILES:  # another version of Torchmill: a list of its files would tell nobody anything
            texts.append(("code", f"Torchmill itself changed, {len(ours)} of its files"))
            changed = {file: changes for file, changes in changed.items() if file not in ours}
        for file, changes in changed.items():
            texts.append(("code", f"{now.places.get(file, file)} changed: {', '.join(changes)}"))
        for name, old, new in _differing(self.versions, now.versions):
            texts.append(("version", f"{name} {old} → {new}"))
        for name, old, new in _differing(self.inputs, now.inputs):
            texts.append(("input", f"{name} changed: {old[:8]}… → {new[:8]}…"))
        return texts


def of_step(step: str, arguments: Mapping[str, Any]) -> StepFingerprint:
    """Compute the fingerprint of a step from its arguments: sections of the configuration, plain values and refs."""
    settings: dict[str, str] = {}
    inputs: dict[str, str] = {}
    references: list[str] = []
    options: list[Path] = []
    for name, argument in arguments.items():
        match argument:
            case Section():
                settings |= _of_section(argument)
                references += user_code(argument)
                options += [option.file for option in argument.options()]
            case (NetworkRef() as network) | FitRef(network=network):
                settings |= _of_network(network)
                inputs |= argument.identity()
                references.append(network.reference)
            case DataRef():
                inputs |= argument.identity()
                options += [TASKS[argument.task].file, fields.file_of(argument.kind)]
                if argument.goal:
                    settings |= {
                        "task.name": _without_folder(argument.goal.reference),
                        "task.args": json.dumps(argument.goal.args, sort_keys=True),
                    }
                    references.append(argument.goal.reference)
            case Ref():
                inputs |= argument.identity()
            case _:
                settings[name] = str(argument)
    return _gather([step], settings, inputs, references, options)


def of_run(config: RunConfig, tracking: str) -> StepFingerprint:
    """Compute the fingerprint of a whole run before it begins: all but the data's content.

    Args:
        tracking: address of the MLflow server or database that records the run.
    """
    settings = {"device": config.device, "seed": str(config.seed), "name": str(config.name), "MLflow": tracking}
    for section in sections():
        settings |= _of_section(getattr(config, section))
    settings["registered name"] = config.registered_name
    # They change nothing in the data, but they decide whether the run has a result at all.
    settings |= {f"data.{name}": str(getattr(config.data, name)) for name in ("leakage_limit", "allow_leakage")}
    references = [name for section in sections() for name in user_code(getattr(config, section))]
    options = [option.file for section in sections() for option in getattr(config, section).options()]
    return _gather(list(CODE), settings, {}, references, options)


def our_source() -> str:
    """Return the digest of Torchmill's own code, as far as it decides results; without data sets and networks."""
    files = {ROOT / file for files in CODE.values() for file in files}
    files |= {room[name].file for room in ROOMS for name in room.names()}
    return hashlib.sha256(json.dumps(_definitions(sorted(files))).encode()).hexdigest()[:16]


def _gather(
    steps: Sequence[str],
    settings: dict[str, str],
    inputs: dict[str, str],
    references: Sequence[str],
    options: Sequence[Path],
) -> StepFingerprint:
    files = [ROOT / file for step in steps for file in CODE[step]] + list(options)
    kind, _ = dataset_place(settings.get("data.name", ""))
    if "fetch" in steps:  # nobody knows yet of which kind the data is, and for which task
        files += [room[name].file for room in (TASKS, FIELDS) for name in room.names()]
    if "fetch" in steps and kind in dataset_names():  # the user's own function is among the references
        files.append(DATASETS[kind].file)
    code = _definitions(files)
    places: dict[str, str] = {}
    versions = {"Python": ".".join(platform.python_version_tuple()[:2])}
    versions |= {library: metadata.version(library) for step in steps for library in LIBRARIES[step]}
    for reference in references:
        source = source_of(reference)
        code |= source.definitions
        places |= {name: os.path.relpath(file) for name, file in source.files.items()}
        versions = source.libraries | versions
    return StepFingerprint(settings=settings, code=code, versions=versions, inputs=inputs, places=places)


def _definitions(files: Sequence[Path]) -> dict[str, dict[str, str]]:
    """Return the definitions in files of ours and in all that they import.

    Raises:
        OSError: a file is not there.
    """
    if not files:
        return {}
    return dict(source_code.closure(files[0], ROOT, beside=files[1:]).definitions)


def source_of(reference: str) -> source_code.SourceCode:
    """Return the source of a network, a loss or data: its file and all that it imports from the same tree."""
    place = reference.rpartition(":")[0]
    if place == TORCHVISION:
        return source_code.closure(ROOT / "components" / "initialization" / "torchvision.py", ROOT)
    if not place:
        room = TASKS if reference in field_tasks() else MODELS
        return source_code.closure(room[reference].file, ROOT)
    return source_code.closure(source_file(place))


def _of_section(section: Section) -> dict[str, str]:
    prefix = next(name for name, kind in sections().items() if type(section) is kind)
    values = {f"{prefix}.{name}": value for name, value in deciding(section).items()}
    if isinstance(section, ModelConfig):
        values["model.name"] = _without_folder(section.name)
        if section.weights and Path(section.weights).expanduser().is_file():
            values["model.weights"] = FileRef.of(Path(section.weights).expanduser()).sha256
    if isinstance(section, TaskConfig):
        values["task.name"] = _without_folder(section.name)
    if isinstance(section, TrainConfig):
        values["train.loss"] = _without_folder(section.loss)
    if isinstance(section, DataConfig):
        # With its folder: two functions of one source may read what lies beside them.
        place, colon, function = section.name.rpartition(":")
        values["data.name"] = f"{os.path.relpath(place)}{colon}{function}" if place.endswith(".py") else section.name
    return values


def user_code(section: Section) -> list[str]:
    """Return the references of a section to code: a network, the user's own loss or data."""
    match section:
        case ModelConfig():
            return [section.name]
        case TaskConfig():
            return [section.name] if section.name != AUTO else []
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
    """Return a reference without the folder of its file: the fingerprint has the file's content."""
    place, colon, name = reference.rpartition(":")
    return f"{Path(place).name}{colon}{name}" if place.endswith(".py") else reference


def _differing(before: Mapping[str, str], now: Mapping[str, str]) -> Iterator[tuple[str, str, str]]:
    """Yield each name whose value differs, in order, with both values; a missing value is ``none``."""
    for name in sorted({**before, **now}):
        old, new = before.get(name, "none"), now.get(name, "none")
        if old != new:
            yield name, old, new


def _short(value: str) -> str:
    return value if len(value) <= 60 else f"{value[:57]}…"
