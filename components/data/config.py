"""Settings of the data. Its data sets and augmentations are found by their files. Imports no torch."""

import hashlib
import os
import re
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationInfo, field_validator

from torchmill.components.errors import ConfigError, nearest
from torchmill.components.settings.options import Room
from torchmill.components.settings.section import NOT_IN_KEY, JsonObject, Named
from torchmill.components.user_code.reference import check_reference, source_file

DATASETS = Room(Path(__file__).parent / "datasets")
AUGMENTATIONS = Room(Path(__file__).parent / "augmentation")

IDENTITY_COMMENT = "# data: "
RECORDED_EARLIER = "recorded by an earlier version"
"""Identity of data in a snapshot that names none."""


def dataset_names() -> list[str]:
    """Return the names of the data sets that are found by their files."""
    return DATASETS.names()


def dataset_place(name: str) -> tuple[str, str]:
    """Split the name of a data set at the colon, into its kind and a path or function.

    ``mnist`` is ("mnist", ""), ``image_folder:a/b`` is ("image_folder", "a/b"), and ``own.py:function`` is
    ("own.py", "function").
    """
    kind, colon, path = name.partition(":")
    if not colon or kind in dataset_names():
        return kind, path
    kind, _, function = name.rpartition(":")
    return kind, function


def usual_strengths() -> list[str]:
    """Return the augmentations with their usual strengths, for example ``shift:2``."""
    return [f"{name}:{_usual_strength(name):g}" for name in AUGMENTATIONS.names()]


def split_strength(item: str) -> tuple[str, float]:
    """Split ``shift:3`` into the name of an augmentation and its strength; ``shift`` alone has the usual one.

    Raises:
        ValueError: there is no such augmentation, or the strength is out of its range.
    """
    name, colon, strength = item.partition(":")
    if name not in AUGMENTATIONS:
        raise ValueError(f"unknown '{name}'. {nearest(name, AUGMENTATIONS.names())}")
    option, usual = AUGMENTATIONS[name], _usual_strength(name)
    low, high = option.range("strength") or (float("-inf"), float("inf"))
    try:
        value = float(strength) if colon else usual
    except ValueError:
        value = float("nan")
    if not low <= value <= high:
        raise ValueError(
            f"'{item}': the strength of {name} is a number from {low:g} to {high:g} "
            f"({option.constant('MEANING', 'any number')}), as in {name}:{usual:g}"
        )
    return name, value


def _usual_strength(name: str) -> float:
    option = AUGMENTATIONS[name]
    return next(
        float(option.usual(function)["strength"]) for function in ("change", "change_samples") if option.usual(function)
    )


class DataConfig(Named):
    name: str = "digits"
    """Data set: a name that `torchmill datasets` lists, with a path after a colon if it needs one, or your own
    file.py:function."""
    args: JsonObject = Field(default_factory=dict)
    """Arguments for the data set as JSON; `torchmill datasets` shows them."""
    split: Literal["random", "last"] = "random"
    """Cut of your own data. random: by content. last: the last samples test, those before them validate."""
    validation_fraction: float = Field(0.1, gt=0, lt=0.9)
    """Share of the training data to split off for validation, by content and seed; unused for data with a
    validation split."""
    leakage_limit: float = Field(0.01, ge=0, le=1, json_schema_extra=NOT_IN_KEY)
    """Largest share of test samples with an equal or nearly equal training sample. A larger one stops the run."""
    allow_leakage: bool = Field(False, json_schema_extra=NOT_IN_KEY)
    """Train in spite of more leakage than the limit."""

    @field_validator("name")
    @classmethod
    def _known(cls, name: str) -> str:
        kind, path = dataset_place(name)
        names = dataset_names()
        if kind in names:
            takes_path = "path" in DATASETS[kind].source.functions["load"]
            if takes_path and not path:
                raise ValueError(f"'{kind}' needs a path: {kind}:PATH")
            if path and not takes_path:
                raise ValueError(f"'{kind}' takes no path; write {kind} alone")
        elif path:
            near = nearest(kind, names)
            if near.startswith("Did") and not kind.endswith(".py") and "/" not in kind:
                raise ValueError(f"unknown data set '{kind}'. {near}")
            check_reference(name, "function")
        else:
            raise ValueError(f"unknown data set '{name}'. {nearest(name, names)} Your own: file.py:function")
        return name

    @field_validator("args")
    @classmethod
    def _fitting(cls, args: dict[str, Any], info: ValidationInfo) -> dict[str, Any]:
        """Check the arguments of our data sets; those of the user's own function are checked when it is imported."""
        kind, _ = dataset_place(info.data.get("name", ""))
        return DATASETS[kind].validated(args, "load") if kind in DATASETS else args

    @property
    def identity(self) -> str:
        """Name that data sets share only if they are the same: ``mnist``, ``csv:repository/data/table.csv``."""
        return data_identity(self.name)

    @property
    def title(self) -> str:
        """Name for titles, which no other data set has: folder, file and function, with the identity's digest."""
        kind, path = dataset_place(self.name)
        if not path or self.identity == RECORDED_EARLIER:
            return self.former_title
        place = self.identity.removeprefix(f"{kind}:") if kind in dataset_names() else self.identity.rpartition(":")[0]
        parts = [part for part in (Path(place).parent.name, Path(place).stem) if part]
        parts = [kind, *parts] if kind in dataset_names() else [*parts, path]
        return _plain("-".join([*parts, hashlib.sha256(self.identity.encode()).hexdigest()[:6]]))

    @property
    def former_title(self) -> str:
        """Title that earlier versions gave: two data sets could share it."""
        kind, path = dataset_place(self.name)
        if not path:
            return kind
        return _plain(path if kind not in dataset_names() else f"{kind}-{Path(path).expanduser().absolute().stem}")


def data_identity(name: str) -> str:
    """Return the identity of a data set: its path in its repository, or the whole path outside of one.

    A repository may be cloned to several places, and its data sets stay the same.
    """
    kind, path = dataset_place(name)
    if not path:
        return kind
    if kind in dataset_names():
        return f"{kind}:{_in_repository(path)}"
    file = _located(kind)
    return recorded if (recorded := _recorded_identity(Path(file).absolute())) else f"{_in_repository(file)}:{path}"


def check_source(name: str) -> None:
    """Check that the file or folder of a data set is there: a mistyped one begins no run.

    Raises:
        ConfigError: it isn't.
    """
    kind, path = dataset_place(name)
    place = Path(path).expanduser().absolute()
    if kind in dataset_names() and path and not place.exists():
        folder = next(parent for parent in place.parents if parent.exists())
        entries = sorted(entry.name for entry in folder.iterdir()) if os.access(folder, os.R_OK) else []
        raise ConfigError(f"There is no {place}.", nearest(place.relative_to(folder).parts[0], entries))


def identity_comment(name: str) -> str:
    """Return the line that begins a recorded configuration, whose copy of the user's code lies elsewhere."""
    return f"{IDENTITY_COMMENT}{data_identity(name)}\n"


def _recorded_identity(file: Path) -> str:
    """Return the identity of the data that a file in a run's snapshot made; empty for other files."""
    for folder in file.parents:
        settings = folder.parent / "config.yaml"
        if folder.name == "code" and settings.is_file():
            with settings.open(encoding="utf-8") as lines:
                first = lines.readline()
            is_noted = first.startswith(IDENTITY_COMMENT)
            return first.removeprefix(IDENTITY_COMMENT).strip() if is_noted else RECORDED_EARLIER
    return ""


def _located(place: str) -> str:
    """Return the file of a module, ``package.module``; a path as it is."""
    try:
        return place if place.endswith(".py") or "/" in place else str(source_file(place))
    except ValueError:  # there is no such module, which its import tells
        return place


def _in_repository(place: str) -> str:
    path = Path(os.path.abspath(os.path.expanduser(place)))  # noqa: PTH100, PTH111 (resolve() would follow links)
    for parent in path.parents:
        if (parent / ".git").exists():
            return (Path(parent.name) / path.relative_to(parent)).as_posix()
    return path.as_posix()


def _plain(title: str) -> str:
    return re.sub(r"[^\w.-]+", "-", title)
