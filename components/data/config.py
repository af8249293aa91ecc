"""Settings of the data. Its data sets and augmentations are found by their files. Imports no torch."""

import re
from pathlib import Path

from pydantic import Field, field_validator

from torchmill.components.errors import nearest
from torchmill.components.settings.options import Room
from torchmill.components.settings.section import NOT_IN_KEY, JsonObject, Named
from torchmill.components.user_code.reference import check_reference

DATASETS = Room(Path(__file__).parent / "datasets")
AUGMENTATIONS = Room(Path(__file__).parent / "augmentation")


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
    validation_fraction: float = Field(0.1, gt=0, lt=0.9)
    """Share of the training data to split off for validation, the same in each class; unused for data with a
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

    @property
    def title(self) -> str:
        """Name without folders, for titles."""
        kind, path = dataset_place(self.name)
        if not path:
            return kind
        last = path if kind not in dataset_names() else f"{kind}-{Path(path).expanduser().absolute().stem}"
        return re.sub(r"[^\w.-]+", "-", last)
