"""Text folder: your own texts, a folder or a file of lines for each class; text_folder:PATH.

PATH/train/CLASS/*.txt, perhaps with val and test beside train; PATH/CLASS/*.txt alone; or PATH/CLASS.txt with a text
in each line. Licence: yours.
"""

import logging
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from torchmill.components.data.formats.class_folders import SPLIT_NAMES, SPLIT_OF, origin, read_tree
from torchmill.components.data.formats.texts import Texts, complete, encode_splits
from torchmill.components.data.splits import Splits
from torchmill.components.encoding.class_names import composed, in_order, named
from torchmill.components.errors import UserError, shortened
from torchmill.components.reading.folders import is_ours
from torchmill.components.reading.texts import lines, read_text
from torchmill.components.wording import count, percent

logger = logging.getLogger("torchmill")

UNREADABLE_SHARE = 0.05
"""Largest share of empty files to leave out."""


def load(
    path: Path,
    downloads: Path,
    validation_fraction: Annotated[float, Field(ge=1e-6, le=0.9)] = 0.1,
    level: Literal["words", "characters"] = "words",
    max_length: Annotated[int, Field(ge=1, le=1_000_000)] = 256,
    lower_case: bool = True,
    test_fraction: Annotated[float, Field(ge=0.001, le=0.9)] = 0.1,
    max_size: Annotated[int, Field(ge=3, le=100_000_000)] = 50_000,
) -> Splits:
    """Encode all texts as token ids, with a vocabulary of the training texts.

    Missing validation and test splits are cut from train; equal texts stay together.

    Args:
        level: words or characters.
        max_length: longest text in tokens; more are cut off.
        lower_case: ignore case, so that Read and read are one word.
        test_fraction: share of the texts to test with if there is no test folder.
        max_size: largest vocabulary; the most frequent tokens stay.

    Raises:
        UserError: as ``read_tree``; a file is not UTF-8; more than 5 % of the files are empty.
    """
    by_line = _lines(path)
    read, notes = (by_line, ()) if by_line else _files(path, downloads.parent)
    values, classes = named({split: names for split, (_, names, _) in read.items()}, str(path))
    parts = {split: Texts(texts, values[split], origins) for split, (texts, _, origins) in read.items()}
    parts = complete(parts, str(path), test_fraction=test_fraction, validation_fraction=validation_fraction)
    splits = encode_splits(
        parts,
        classes,
        level,
        lower_case=lower_case,
        max_length=max_length,
        max_size=max_size,
        source=str(path),
        text_per="line" if by_line else "file",
    )
    return replace(splits, notes=(*splits.notes, *notes))


Read = dict[str, tuple[list[str], list[str], list[str]]]
"""Texts, names of their classes and origins, by split."""


def _lines(path: Path) -> Read | None:
    """Read PATH/CLASS.txt or PATH/train/CLASS.txt; None if texts lie in folders."""
    if not path.is_dir():
        return None
    places = {}
    for split, names in SPLIT_NAMES.items():
        if folders := [path / name for name in names if (path / name).is_dir()]:
            places[split] = folders[0]
    if "train" not in places or not _text_files(places["train"]):
        places = {"train": path}
    if not _text_files(places["train"]) or any(_has_folders(place) for place in places.values() if place != path):
        return None
    if places == {"train": path} and _has_folders(path):
        return None
    if splits := [file.name for file in _text_files(places["train"]) if file.stem.lower() in SPLIT_OF]:
        raise UserError(
            f"{places['train']} has {shortened(splits)}: named like splits, not like classes.",
            "Put a file of lines for each class into a folder for each split: PATH/train/CLASS.txt.",
        )
    read: Read = {}
    for split, place in places.items():
        texts, names, origins = [], [], []
        for file in _text_files(place):
            numbered = [(number, line) for number, line in enumerate(lines(read_text(file)), 1) if line.strip()]
            if not numbered:
                raise UserError(f"{file} holds no text.", "Write a text in each line, or remove it.")
            texts += [line for _, line in numbered]
            names += [composed(file.stem)] * len(numbered)
            origins += [f"{origin(file, path)} line {number}" for number, _ in numbered]
        read[split] = texts, names, origins
    return read


def _text_files(place: Path) -> list[Path]:
    files = {file.name: file for file in place.glob("*.txt") if is_ours(file.name)}
    return [files[name] for name in in_order(files)]


def _has_folders(place: Path) -> bool:
    return any(path.is_dir() and is_ours(path.name) for path in place.iterdir())


def _files(path: Path, cache: Path) -> tuple[Read, tuple[str, ...]]:
    """Read PATH/CLASS/*.txt or PATH/train/CLASS/*.txt; return the texts, and notes on files that are left out."""
    tree = read_tree(path, {".txt"}, "texts")
    read: Read = {}
    empty, total = [], 0
    for split, files in tree.splits.items():
        texts, names, origins = [], [], []
        for file, label in files:
            text = read_text(file)
            total += 1
            if text.strip():
                texts.append(text)
                names.append(tree.classes[label])
                origins.append(origin(file, path))
            else:
                empty.append(file)
        if split == "train" and (lost := set(tree.classes) - set(names)):
            raise UserError(f"All texts of the class {in_order(lost)[0]} are empty.", "Mend or remove it.")
        if not texts:
            raise UserError(f"All texts of {split} are empty.", "Mend or remove them.")
        read[split] = texts, names, origins
    _report_empty(empty, total, cache)
    note = cache / "unreadable.txt"
    lost = (f"{count(len(empty), 'empty text is', 'empty texts are')} left out: {note}",) if empty else ()
    return read, (*tree.notes, *lost)


def _report_empty(empty: list[Path], total: int, cache: Path) -> None:
    cache.mkdir(parents=True, exist_ok=True)
    note = cache / "unreadable.txt"
    note.unlink(missing_ok=True)
    if not empty:
        return
    note.write_text("".join(f"{file}\tis empty\n" for file in empty), encoding="utf-8")
    summary = f"{len(empty):,} of {total:,} texts are empty (all of them: {note}):"
    message = "\n  ".join([summary, *map(str, empty[:5])])
    if len(empty) > UNREADABLE_SHARE * total:
        raise UserError(f"{message}\nMore than {percent(UNREADABLE_SHARE, 0)}.", "Mend or remove these files.")
    logger.warning("%s" + "\n  %s" * len(empty[:5]) + "\nThey are left out.", summary, *empty[:5])
