"""Files in a folder per class: PATH/train/CLASS/FILE, with val and test beside train, PATH/CLASS/FILE, or
PATH/CLASS/train/FILE.
"""

import logging
import os
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from torchmill.components.encoding.class_names import composed, in_order
from torchmill.components.errors import UserError, nearest, shortened
from torchmill.components.reading.folders import is_ours, walk

logger = logging.getLogger("torchmill")

SPLIT_NAMES = {
    "train": ("train", "training"),
    "validation": ("val", "valid", "validation"),
    "test": ("test", "testing"),
}
"""Names of the splits' folders."""

SPLIT_OF = {name: split for split, names in SPLIT_NAMES.items() for name in names}

Folders = dict[str, list[Path]]
"""Folders of each class, by name; of one name there are several if it is composed in one and decomposed in another."""


@dataclass(frozen=True)
class Tree:
    """The files of a data set by split and class."""

    classes: tuple[str, ...]
    """Names of the classes in natural order: 2 before 10."""
    splits: dict[str, list[tuple[Path, int]]]
    """Files with their classes, in the order of their names; train alone if the folder has no splits."""
    notes: tuple[str, ...] = ()
    """Files that are left out and the layout, in words."""


def read_tree(root: Path, suffixes: Collection[str], noun: str) -> Tree:
    """Return the files of each split and class. The folder has splits if it has a folder ``train`` with folders.

    Links to files and folders are followed. Names that differ in their composition (NFC, NFD) alone are one class.

    Args:
        suffixes: endings of the files in lower case; hidden files and other endings are left out.
        noun: plural noun for the files, for messages.

    Raises:
        UserError: the folder or its files are missing; there is one class alone; a class has no files, or is not in
            train; the splits are not clear.
    """
    if not root.exists():
        siblings = [path.name for path in root.parent.iterdir()] if root.parent.is_dir() else []
        raise UserError(f"There is no folder {root}.", nearest(root.name, siblings))
    if not root.is_dir():
        raise UserError(f"{root} is a file, not a folder.", "If it is an archive, unpack it and name the folder.")
    places = _places(root, suffixes, noun)
    classes = tuple(in_order(places["train"]))
    _check_classes(places, root, noun)
    ignored: Counter[str] = Counter()
    splits = {}
    for split, folders in places.items():
        members = []
        for name in sorted(folders, key=classes.index):
            files = _files(folders[name], suffixes, ignored)
            if not files and split == "train":
                raise UserError(f"The class '{name}' has no {noun} in {folders[name][0]}.", _endings(suffixes))
            members += [(file, classes.index(name)) for file in files]
        if not members:
            raise UserError(f"There are no {noun} in {split} of {root}.", _endings(suffixes))
        splits[split] = members
    notes = []
    if ignored:
        kinds = ", ".join(f"{count:,} {suffix or 'without ending'}" for suffix, count in ignored.most_common(5))
        logger.info("%s: %d files left out, which are no %s by their names: %s", root, ignored.total(), noun, kinds)
        notes.append(f"left out, no {noun} by their names: {kinds}")
    if "test" not in splits:
        notes.append(
            "test is cut from the only folder by content: equal ones stay together, and stay there when it grows"
        )
    return Tree(classes, splits, tuple(notes))


def _places(root: Path, suffixes: Collection[str], noun: str) -> dict[str, Folders]:
    """Return the folders of each class by split; without splits, all as train."""
    if places := _splits_above(root):
        splits = {split: _by_class(_folders(place)) for split, place in places.items()}
    else:
        folders = _by_class(_folders(root))
        splits = _splits_below(root, folders, noun) or {"train": folders}
        places = {"train": root}
    for place in places.values():
        loose = [path for path in place.iterdir() if path.suffix.lower() in suffixes and path.is_file()]
        if loose:
            logger.warning("%s: %d %s lie in no class folder and are left out", place, len(loose), noun)
    return splits


def _by_class(folders: Iterable[Path]) -> Folders:
    by_class: Folders = defaultdict(list)
    for folder in folders:
        by_class[composed(folder.name)].append(folder)
    return dict(by_class)


def _splits_above(root: Path) -> dict[str, Path]:
    """Return the folders of the splits, PATH/train and the like; empty if there are none."""
    folders = {folder.name.lower(): folder for folder in _folders(root)}
    places = _one_of_each(folders, root)
    if "train" in places and _folders(places["train"]):  # otherwise train is a class, as in car, plane, train
        used = {place.name for place in places.values()}
        if others := [folder.name for folder in folders.values() if folder.name not in used]:
            logger.warning("%s: %s beside train left out: no split by name", root, ", ".join(in_order(others)))
        return places
    if places and len(places) == len(folders):
        if "train" not in places:
            raise UserError(
                f"{root} has {' and '.join(sorted(place.name for place in places.values()))}, but no train.",
                "Call the folder with the training classes 'train'.",
            )
        if len(places) > 1:
            raise UserError(
                f"{root} has {' and '.join(sorted(place.name for place in places.values()))}, and no class folders in "
                "them.",
                "Sort the files into a folder for each class: PATH/train/CLASS/FILE.",
            )
    return {}


def _splits_below(root: Path, folders: Folders, noun: str) -> dict[str, Folders] | None:
    """Return the folders of PATH/CLASS/train, PATH/CLASS/test and the like; None if no class has splits in it.

    Raises:
        UserError: some classes have a folder train in them, and others don't.
    """
    below = {
        name: _one_of_each({path.name.lower(): path for place in places for path in _folders(place)}, places[0])
        for name, places in folders.items()
    }
    with_train = in_order(name for name, splits in below.items() if "train" in splits)
    if not with_train:
        return None
    if without := in_order(below.keys() - with_train):
        raise UserError(
            f"{root}: {shortened(with_train)} {'have' if with_train[1:] else 'has'} a folder train, and "
            f"{shortened(without)} {'have' if without[1:] else 'has'} none.",
            f"Sort the {noun} of all classes into PATH/train/CLASS, or rename these folders.",
        )
    logger.info("%s: the folders of the classes have the splits in them, as in %s/train", root, with_train[0])
    splits: dict[str, Folders] = {split: {} for split in SPLIT_NAMES}
    for name, places in below.items():
        for split, place in places.items():
            splits[split][name] = [place]
        if beside := [
            folder.name for place in folders[name] for folder in _folders(place) if folder.name.lower() not in SPLIT_OF
        ]:
            logger.warning("%s: %s beside train left out: no split by name", name, shortened(beside))
    return {split: places for split, places in splits.items() if places}


def _one_of_each(folders: Mapping[str, Path], root: Path) -> dict[str, Path]:
    """Return the folders that are splits by their names in lower case."""
    places = {}
    for split, names in SPLIT_NAMES.items():
        matches = [folders[name] for name in names if name in folders]
        if len(matches) > 1:
            raise UserError(
                f"{root} has {matches[0].name} and {matches[1].name}.", "Which of them is it? Move one away."
            )
        places |= {split: matches[0]} if matches else {}
    return places


def _check_classes(places: dict[str, Folders], root: Path, noun: str) -> None:
    classes = places["train"]
    layout = f"Put the {noun} of each class into a folder: PATH/CLASS/FILE or PATH/train/CLASS/FILE."
    if not classes:
        raise UserError(f"There are no class folders in {root}.", layout)
    if len(classes) == 1:
        ((name, (folder, *_)),) = classes.items()
        inner = in_order(path.name for path in _folders(folder))
        remedy = f"Did you mean {folder}, with {shortened(inner)}?" if len(inner) > 1 else layout
        raise UserError(f"There is one class alone in {folder.parent}: '{name}'.", remedy)
    for split, names in places.items():
        if not names:
            raise UserError(
                f"There are no class folders in {split} of {root}.",
                f"Without classes the {split} {noun} have no labels: sort them, or move the folder away.",
            )
        if unknown := in_order(names.keys() - classes.keys()):
            near = nearest(unknown[0], classes)
            raise UserError(
                f"{split} has {'classes' if unknown[1:] else 'a class'} that train does not have: "
                f"{', '.join(unknown[:5])}.",
                near if near.startswith("Did") else "Move them away, or give train some of them.",
            )
        if split != "train" and (missing := in_order(classes.keys() - names.keys())):
            logger.warning("%s of %s has none of %s", split, root, ", ".join(missing[:5]))


def _folders(place: Path) -> list[Path]:
    return [path for path in place.iterdir() if path.is_dir() and is_ours(path.name)]


def _files(folders: Iterable[Path], suffixes: Collection[str], ignored: Counter[str]) -> list[Path]:
    """Return the files below folders, at any depth, in natural order."""
    paths = []
    for folder in folders:
        for place, names, _ in walk(folder):
            for name in names:
                suffix = os.path.splitext(name)[1].lower()  # noqa: PTH122 (a Path for each of a million files is slow)
                path = os.path.join(place, name)  # noqa: PTH118
                if suffix in suffixes:
                    paths.append(path)
                    continue
                ignored[suffix] += 1
                if not suffix and not os.path.exists(path):  # noqa: PTH110
                    logger.warning("%s is a link to nothing: it is left out", path)
    return [Path(path) for path in in_order(paths)]


def origin(file: Path, root: Path) -> str:
    """Return the name of a file for people: its path below the folder that they named."""
    return file.relative_to(root).as_posix()


def _endings(suffixes: Collection[str]) -> str:
    return f"Their names end in {', '.join(sorted(suffixes))}."
