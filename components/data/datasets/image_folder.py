"""Image folder: your own images, a folder for each class; image_folder:PATH.

PATH/train/CLASS/FILE, with val and test beside train where there are such, or PATH/CLASS/FILE alone.
Licence: yours.
"""

import logging
import statistics
from pathlib import Path
from typing import Literal

import numpy as np

from torchmill.components.data.formats import image_files as pictures
from torchmill.components.data.formats.class_folders import Tree, origin, read_tree
from torchmill.components.data.formats.image_files import Header
from torchmill.components.data.splits import Split, Splits, cut
from torchmill.components.errors import UserError
from torchmill.components.wording import percent

logger = logging.getLogger("torchmill")

LARGEST_USUAL_SIZE = 224


def load(
    path: Path,
    downloads: Path,
    image_size: int | None = None,
    colors: Literal["auto", "grey", "rgb"] = "auto",
    test_fraction: float = 0.2,
    max_pixels: int = 64_000_000,
    unreadable_share: float = 0.05,
) -> Splits:
    """Decode all images once into uint8 NCHW arrays.

    Images of one size keep it. Otherwise, and where ``image_size`` is given, the shorter side is resized
    (antialiased) and the middle square is cut out.

    Args:
        image_size: pixels, height and width. Without it, where sizes differ, the median of the shorter sides, as a
            multiple of 8, at most 224.
        colors: auto makes grey images of those that are all stored as grey.
        test_fraction: cut off where there is no test folder, the same share of each class; equal files stay together.
        max_pixels: larger images count as unreadable; 170 million at most.
        unreadable_share: so many of the files may be left out because they can't be read; more stop the run.

    Raises:
        UserError: as ``read_tree``; more of the files than that, or all of a class, are unreadable.
    """
    _check(image_size, colors, test_fraction, unreadable_share)
    tree = read_tree(path, pictures.SUFFIXES, "images")
    listed = [(split, file, label) for split, files in tree.splits.items() for file, label in files]
    files = [file for _, file, _ in listed]
    headers = pictures.read_headers(files, max_pixels)
    cache = downloads.parent
    cache.mkdir(parents=True, exist_ok=True)
    # What already fails here is not worth decoding a million others for.
    unreadable = {file: one for file, one in zip(files, headers, strict=True) if isinstance(one, str)}
    _report(unreadable, listed, tree, cache, unreadable_share)
    rows = [(*row, one) for row, one in zip(listed, headers, strict=True) if isinstance(one, Header)]
    parts = _parts(rows, test_fraction)
    shape = _shape([header for *_, header in rows], image_size, colors)
    decoded, labels, origins = {}, {}, {}
    with pictures.kept_on_success(cache) as made:
        for split, members in parts.items():
            array, faults = pictures.decode(
                [file for _, file, _, _ in members], shape, cache / f".{split}.decoded", made
            )
            decoded[split] = array
            sound = [row for row in members if row[1] not in faults]
            labels[split] = np.array([row[2] for row in sound], np.int64)
            origins[split] = [origin(row[1], path) for row in sound]
            unreadable |= faults
        _report(unreadable, listed, tree, cache, unreadable_share)
    made_splits = {split: Split(decoded[split], labels[split], origins[split]) for split in parts}
    return Splits(
        made_splits["train"], made_splits["test"], made_splits.get("validation"), tree.classes, source=str(path)
    )


def _check(image_size: int | None, colors: str, test_fraction: float, unreadable_share: float) -> None:
    if image_size is not None and (not isinstance(image_size, int) or not 1 <= image_size <= 4096):
        raise UserError(f"image_size is {image_size!r}.", "Give a whole number of pixels from 1 to 4096.")
    if colors not in ("auto", "grey", "rgb"):
        raise UserError(f"colors is {colors!r}.", "Give auto, grey or rgb.")
    if not isinstance(test_fraction, int | float) or not 0 < test_fraction < 1:
        raise UserError(f"test_fraction is {test_fraction!r}.", "Give a share between 0 and 1.")
    if not isinstance(unreadable_share, int | float) or not 0 <= unreadable_share < 1:
        raise UserError(f"unreadable_share is {unreadable_share!r}.", "Give a share from 0 to 1.")


Row = tuple[str, Path, int, Header]


def _parts(rows: list[Row], test_fraction: float) -> dict[str, list[Row]]:
    parts = {split: [row for row in rows if row[0] == split] for split in ("train", "validation", "test")}
    parts = {split: members for split, members in parts.items() if members}
    if "test" in parts:
        return parts
    train = parts["train"]
    # By what is in the files too, so that the split does not depend on names or on the order of folders.
    kept, test = cut(np.array([row[2] for row in train]), (test_fraction,), groups=[row[3].digest for row in train])
    if not len(test):
        raise UserError(
            "There are too few images to cut any off for test.", "Two of a class at least, or a test folder."
        )
    logger.info("No test folder: %d of %d images are cut off for test", len(test), len(train))
    return {**parts, "train": [train[index] for index in kept], "test": [train[index] for index in test]}


def _shape(headers: list[Header], image_size: int | None, colors: str) -> tuple[int, int, int]:
    """Channels, height and width of all images."""
    grey = colors == "grey" or (colors == "auto" and all(header.grey for header in headers))
    channels = 1 if grey else 3
    sizes = {header.size for header in headers}
    if image_size:
        return channels, image_size, image_size
    if len(sizes) == 1:
        width, height = sizes.pop()
        return channels, height, width
    median = statistics.median(min(header.size) for header in headers)
    side = min(LARGEST_USUAL_SIZE, max(8, round(median / 8) * 8))
    logger.info(
        "Images of %d sizes: the shorter side is resized to %d pixels, the middle square cut out. Another size: "
        "--data.args '{\"image_size\": 96}'",
        *(len(sizes), side),
    )
    return channels, side, side


def _report(
    unreadable: dict[Path, str], listed: list[tuple[str, Path, int]], tree: Tree, cache: Path, most: float
) -> None:
    """Tell of all files that can't be read; stop where they are too many."""
    note = cache / "unreadable.txt"
    if not unreadable:
        note.unlink(missing_ok=True)
        return
    note.write_text("".join(f"{file}\t{reason}\n" for file, reason in unreadable.items()), encoding="utf-8")
    first = "".join(f"\n  {file}: {reason}" for file, reason in list(unreadable.items())[:5])
    told = f"{len(unreadable):,} of {len(listed):,} images can't be read (all of them: {note}):{first}"
    readable = {(split, label) for split, file, label in listed if file not in unreadable}
    if lost := sorted({(split, label) for split, _, label in listed} - readable):
        where = ", ".join(f"{split} {tree.classes[label]}" for split, label in lost)
        raise UserError(f"{told}\nNone is left of {where}.", "Mend or replace these files.")
    if len(unreadable) > most * len(listed):
        raise UserError(
            f"{told}\nMore than {percent(most, 0)}.",
            "Mend or remove these files, or allow more by unreadable_share in --data.args.",
        )
    logger.warning("%s\nThey are left out.", told)
