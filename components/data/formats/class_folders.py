"""Files in a folder per class: PATH/train/CLASS/FILE, with val and test beside train, or PATH/CLASS/FILE."""

import logging
import os
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from torchmill.components.encoding.class_names import in_order
from torchmill.components.errors import UserError, nearest

logger = logging.getLogger("torchmill")

SPLIT_NAMES = {
    "train": ("train", "training"),
    "validation": ("val", "valid", "validation"),
    "test": ("test", "testing"),
}
"""Names of the splits' folders."""

SYSTEM_FILES = frozenset({"thumbs.db", "desktop.ini"})
"""Files that operating systems leave in folders; hidden files are others."""


@dataclass(frozen=True)
class Tree:
    """The files of a data set by split and class."""

    classes: tuple[str, ...]
    """Names of the classes in natural order: 2 before 10."""
    splits: dict[str, list[tuple[Path, int]]]
    """Files with their classes, in the order of their names; train alone if the folder has no splits."""


def read_tree(root: Path, suffixes: Collection[str], noun: str) -> Tree:
    """Return the files of each split and class. The folder has splits if it has a folder ``train`` with folders.

    Args:
        suffixes: endings of the files in lower case; hidden files and other endings are left out.
        noun: plural noun for the files, for messages.

    Raises:
        UserError: the folder or its files are missing; there is one class alone; a class has no files, or is not in
            train.
    """
    if not root.exists():
        siblings = [path.name for path in root.parent.iterdir()] if root.parent.is_dir() else []
        raise UserError(f"There is no folder {root}.", nearest(root.name, siblings))
    if not root.is_dir():
        raise UserError(f"{root} is a file, not a folder.", "If it is an archive, unpack it and name the folder.")
    places = _splits(root)
    classes = tuple(in_order(folder.name for folder in _folders(places["train"])))
    _check_classes(places, classes, noun)
    ignored: Counter[str] = Counter()
    splits = {}
    for split, place in places.items():
        members = []
        for folder in sorted(_folders(place), key=lambda folder: classes.index(folder.name)):
            files = _files(folder, suffixes, ignored)
            if not files and split == "train":
                raise UserError(f"The class '{folder.name}' has no {noun} in {folder}.", _endings(suffixes))
            members += [(file, classes.index(folder.name)) for file in files]
        loose = [path for path in place.iterdir() if path.suffix.lower() in suffixes and path.is_file()]
        if loose:
            logger.warning("%s: %d %s lie in no class folder and are left out", place, len(loose), noun)
        if not members:
            raise UserError(f"There are no {noun} in {place}.", _endings(suffixes))
        splits[split] = members
    if ignored:
        kinds = ", ".join(f"{count:,} {suffix or 'without ending'}" for suffix, count in ignored.most_common(5))
        logger.info("%s: %d files left out, which are no %s by their names: %s", root, ignored.total(), noun, kinds)
    return Tree(classes, splits)


def _splits(root: Path) -> dict[str, Path]:
    """Return the splits' folders; without splits, the folder itself as train."""
    folders = {folder.name.lower(): folder for folder in _folders(root)}
    places = {}
    for split, names in SPLIT_NAMES.items():
        matches = [folders[name] for name in names if name in folders]
        if len(matches) > 1:
            raise UserError(
                f"{root} has {matches[0].name} and {matches[1].name}.", "Which of them is it? Move one away."
            )
        places |= {split: matches[0]} if matches else {}
    if "train" in places and _folders(places["train"]):  # otherwise train is a class, as in car, plane, train
        used = {place.name for place in places.values()}
        if others := [folder.name for folder in folders.values() if folder.name not in used]:
            logger.warning("%s: %s beside train left out: no split by name", root, ", ".join(in_order(others)))
        return places
    if places and len(places) == len(folders) and "train" not in places:
        raise UserError(
            f"{root} has {' and '.join(sorted(place.name for place in places.values()))}, but no train.",
            "Call the folder with the training classes 'train'.",
        )
    return {"train": root}


def _check_classes(places: dict[str, Path], classes: tuple[str, ...], noun: str) -> None:
    layout = f"Put the {noun} of each class into a folder: PATH/CLASS/FILE or PATH/train/CLASS/FILE."
    if not classes:
        raise UserError(f"There are no class folders in {places['train']}.", layout)
    if len(classes) == 1:
        raise UserError(f"There is one class alone in {places['train']}: '{classes[0]}'.", layout)
    for split, place in places.items():
        names = {folder.name for folder in _folders(place)}
        if not names:
            raise UserError(
                f"There are no class folders in {place}.",
                f"Without classes the {split} {noun} have no labels: sort them, or move {place.name} away.",
            )
        if unknown := in_order(names - set(classes)):
            near = nearest(unknown[0], classes)
            raise UserError(
                f"{split} has {'classes' if unknown[1:] else 'a class'} that train does not have: "
                f"{', '.join(unknown[:5])}.",
                near if near.startswith("Did") else "Move them away, or give train some of them.",
            )
        if split != "train" and (missing := in_order(set(classes) - names)):
            logger.warning("%s has none of %s", place, ", ".join(missing[:5]))


def _folders(place: Path) -> list[Path]:
    return [path for path in place.iterdir() if path.is_dir() and not path.name.startswith(".")]


def _files(folder: Path, suffixes: Collection[str], ignored: Counter[str]) -> list[Path]:
    """Return the files below a folder, at any depth, in natural order."""
    paths = []
    for place, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in names:
            suffix = os.path.splitext(name)[1].lower()  # noqa: PTH122 (a Path for each of a million files is slow)
            if suffix in suffixes and not name.startswith("."):
                paths.append(os.path.join(place, name))  # noqa: PTH118
            elif not name.startswith(".") and name.lower() not in SYSTEM_FILES:
                ignored[suffix] += 1
    return [Path(path) for path in in_order(paths)]


def origin(file: Path, root: Path) -> str:
    """Return the name of a file for people: its path below the folder that they named."""
    return file.relative_to(root).as_posix()


def _endings(suffixes: Collection[str]) -> str:
    return f"Their names end in {', '.join(sorted(suffixes))}."
