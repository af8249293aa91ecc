"""Files in a folder for each class: PATH/train/CLASS/FILE, with val and test beside train, or PATH/CLASS/FILE."""

import logging
import os
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from torchmill.components.data.formats.class_names import in_order
from torchmill.components.errors import UserError, nearest

logger = logging.getLogger("torchmill")

SPLIT_NAMES = {
    "train": ("train", "training"),
    "validation": ("val", "valid", "validation"),
    "test": ("test", "testing"),
}
QUIET = frozenset({"thumbs.db", "desktop.ini"})
"""What systems leave in folders, beside all hidden files."""


@dataclass(frozen=True)
class Tree:
    classes: tuple[str, ...]
    """In natural order: 2 before 10."""
    splits: dict[str, list[tuple[Path, int]]]
    """Files with their classes; train alone where there is one folder to split. In the order of their names."""


def read_tree(root: Path, suffixes: Collection[str], what: str) -> Tree:
    """Find the files of each split and class.

    There are splits where a folder called train holds folders. What is hidden is left out, and so is what ends
    otherwise than ``suffixes``.

    Args:
        what: plural, for messages.

    Raises:
        UserError: no such folder, no such files, one class alone, a class without files or one that train has not.
    """
    if not root.exists():
        beside = [other.name for other in root.parent.iterdir()] if root.parent.is_dir() else []
        raise UserError(f"There is no folder {root}.", nearest(root.name, beside))
    if not root.is_dir():
        raise UserError(f"{root} is a file, not a folder.", "Unpack it, where it is an archive, and name the folder.")
    places = _splits(root)
    classes = tuple(in_order(folder.name for folder in _folders(places["train"])))
    _check_classes(places, classes, what)
    ignored: Counter[str] = Counter()
    splits = {}
    for split, place in places.items():
        found = []
        for folder in sorted(_folders(place), key=lambda folder: classes.index(folder.name)):
            files = _files(folder, suffixes, ignored)
            if not files and split == "train":
                raise UserError(f"The class '{folder.name}' has no {what} in {folder}.", _endings(suffixes))
            found += [(file, classes.index(folder.name)) for file in files]
        loose = [one for one in place.iterdir() if one.suffix.lower() in suffixes and one.is_file()]
        if loose:
            logger.warning("%s: %d %s lie in no class folder and are left out", place, len(loose), what)
        if not found:
            raise UserError(f"There are no {what} in {place}.", _endings(suffixes))
        splits[split] = found
    if ignored:
        kinds = ", ".join(f"{count:,} {suffix or 'without ending'}" for suffix, count in ignored.most_common(5))
        logger.info("%s: %d files left out, which are no %s by their names: %s", root, ignored.total(), what, kinds)
    return Tree(classes, splits)


def _splits(root: Path) -> dict[str, Path]:
    """The folders of the splits; the folder itself as train where it isn't split."""
    folders = {folder.name.lower(): folder for folder in _folders(root)}
    places = {}
    for split, names in SPLIT_NAMES.items():
        found = [folders[name] for name in names if name in folders]
        if len(found) > 1:
            raise UserError(f"{root} has {found[0].name} and {found[1].name}.", "Which of them is it? Move one away.")
        places |= {split: found[0]} if found else {}
    if "train" in places and _folders(places["train"]):  # otherwise it is a class, as in car, plane, train
        known = {place.name for place in places.values()}
        if others := [folder.name for folder in folders.values() if folder.name not in known]:
            logger.warning("%s: %s beside train left out: no split by name", root, ", ".join(in_order(others)))
        return places
    if places and len(places) == len(folders) and "train" not in places:
        raise UserError(
            f"{root} has {' and '.join(sorted(place.name for place in places.values()))}, but no train.",
            "Call the folder with the training classes 'train'.",
        )
    return {"train": root}


def _check_classes(places: dict[str, Path], classes: tuple[str, ...], what: str) -> None:
    layout = f"Put the {what} of each class into a folder: PATH/CLASS/FILE or PATH/train/CLASS/FILE."
    if not classes:
        raise UserError(f"There are no class folders in {places['train']}.", layout)
    if len(classes) == 1:
        raise UserError(f"There is one class alone in {places['train']}: '{classes[0]}'.", layout)
    for split, place in places.items():
        held = {folder.name for folder in _folders(place)}
        if not held:
            raise UserError(
                f"There are no class folders in {place}.",
                f"Without classes the {split} {what} have no labels: sort them, or move {place.name} away.",
            )
        if unknown := in_order(held - set(classes)):
            near = nearest(unknown[0], classes)
            raise UserError(
                f"{split} has {'classes' if unknown[1:] else 'a class'} that train does not have: "
                f"{', '.join(unknown[:5])}.",
                near if near.startswith("Did") else "Move them away, or give train some of them.",
            )
        if split != "train" and (missing := in_order(set(classes) - held)):
            logger.warning("%s has none of %s", place, ", ".join(missing[:5]))


def _folders(place: Path) -> list[Path]:
    return [path for path in place.iterdir() if path.is_dir() and not path.name.startswith(".")]


def _files(folder: Path, suffixes: Collection[str], ignored: Counter[str]) -> list[Path]:
    """Files below a folder in natural order, in folders of its own too."""
    found = []
    for place, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in names:
            suffix = os.path.splitext(name)[1].lower()  # noqa: PTH122 (a Path for each of a million files is slow)
            if suffix in suffixes and not name.startswith("."):
                found.append(os.path.join(place, name))  # noqa: PTH118
            elif not name.startswith(".") and name.lower() not in QUIET:
                ignored[suffix] += 1
    return [Path(path) for path in in_order(found)]


def origin(file: Path, root: Path) -> str:
    """What people know a file by: its path below the folder that they named."""
    return file.relative_to(root).as_posix()


def _endings(suffixes: Collection[str]) -> str:
    return f"Their names end in {', '.join(sorted(suffixes))}."
