"""Image folder: your own images, a folder for each class; image_folder:PATH.

PATH/train/CLASS/FILE, perhaps with val and test beside train, or PATH/CLASS/FILE alone.
Licence: yours.
"""

import logging
import statistics
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from pydantic import Field

from torchmill.components.data.content import DTYPE
from torchmill.components.data.formats import image_files
from torchmill.components.data.formats.class_folders import Tree, origin, read_tree
from torchmill.components.data.formats.image_files import Header
from torchmill.components.data.splits import Split, Splits, cut
from torchmill.components.errors import UserError
from torchmill.components.reading.pictures import SUFFIXES
from torchmill.components.reading.rules import ReadingRules
from torchmill.components.reading.survey import Colors, Survey
from torchmill.components.wording import count, percent

logger = logging.getLogger("torchmill")

LARGEST_USUAL_SIZE = 224
"""Largest size, in pixels, that is chosen if nobody names one."""


def load(
    path: Path,
    downloads: Path,
    image_size: Annotated[int | None, Field(ge=1, le=4096)] = None,
    colors: Literal["auto", "grey", "rgb", "rgba"] = "auto",
    bits: Annotated[int | None, Field(ge=8, le=16)] = None,
    test_fraction: Annotated[float, Field(ge=0.001, le=0.9)] = 0.2,
    max_pixels: Annotated[int, Field(ge=1, le=170_000_000)] = 64_000_000,
    unreadable_share: Annotated[float, Field(ge=0, le=0.99)] = 0.05,
) -> Splits:
    """Decode all images once into uint8 NCHW arrays.

    Images of one size keep it. If sizes differ, or ``image_size`` is set, the shorter side is resized (antialiased)
    and the middle square is cut out.

    Args:
        image_size: height and width in pixels. Without it, if sizes differ, the median of the shorter sides, as a
            multiple of 8, at most 224.
        colors: grey, rgb, or rgba for four channels as they are stored; auto is grey if all images are stored as grey,
            and four channels if all are TIFFs whose fourth channel is no opacity.
        bits: depth of 16-bit images. Without it, the depth that their largest level needs.
        test_fraction: share of the images to test with if there is no test folder; equal files stay together.
        max_pixels: largest image to read, in pixels; 170 million at most.
        unreadable_share: largest share of unreadable files to leave out; more stop the run.

    Raises:
        UserError: as ``read_tree``; more files than that share, or all of a class, are unreadable.
    """
    tree = read_tree(path, SUFFIXES, "images")
    listed = [(split, file, label) for split, files in tree.splits.items() for file, label in files]
    headers = image_files.read_headers([file for _, file, _ in listed], max_pixels)
    cache = downloads.parent
    cache.mkdir(parents=True, exist_ok=True)
    # Report before a million images are decoded.
    reported = {row[1]: header for row, header in zip(listed, headers, strict=True) if isinstance(header, str)}
    _report(reported, listed, tree, cache, unreadable_share)
    unreadable = dict(reported)
    rows = [(*row, header) for row, header in zip(listed, headers, strict=True) if isinstance(header, Header)]
    parts = _parts(rows, test_fraction)
    shape, rules, notes = _surveyed([header for *_, header in rows], image_size, colors, bits, str(path))
    splits = {}
    with image_files.removed_on_failure() as written:
        for split, members in parts.items():
            images_NCHW, faults = image_files.decode(
                [file for _, file, _, _ in members], shape, rules, cache / f".{split}.decoded", written
            )
            sound = [row for row in members if row[1] not in faults]
            labels = np.array([row[2] for row in sound], np.int64)
            splits[split] = Split(images_NCHW, labels, [origin(row[1], path) for row in sound], _digests(sound))
            unreadable |= faults
        if unreadable != reported:
            _report(unreadable, listed, tree, cache, unreadable_share)
    return Splits(
        *(splits["train"], splits["test"], splits.get("validation")),
        tree.classes,
        source=str(path),
        rules=rules,
        notes=(*notes, *tree.notes, *_lost(len(unreadable), cache)),
    )


Row = tuple[str, Path, int, Header]
"""Split, file, class and header of an image."""


def _parts(rows: list[Row], test_fraction: float) -> dict[str, list[Row]]:
    parts = {split: [row for row in rows if row[0] == split] for split in ("train", "validation", "test")}
    parts = {split: members for split, members in parts.items() if members}
    if "test" in parts:
        return parts
    train = parts["train"]
    # Grouped by content, so that the split depends neither on names nor on the order of folders.
    chosen = cut(np.array([row[2] for row in train]), _digests(train), {"test": test_fraction})
    if not len(chosen["test"]):
        raise UserError(
            "There are too few images to cut any off for test.",
            "Add images until each class has two, or a test folder.",
        )
    logger.info("No test folder: %d of %d images are cut off for test", len(chosen["test"]), len(train))
    return {**parts, **{split: [train[index] for index in indices] for split, indices in chosen.items()}}


def _digests(rows: list[Row]) -> np.ndarray:
    """Return the first 64 bits of the files' digests."""
    return np.array([int(row[3].digest[:16], 16) for row in rows], DTYPE)


def _lost(number: int, cache: Path) -> tuple[str, ...]:
    subject = count(number, "unreadable image is", "unreadable images are")
    return (f"{subject} left out: {cache / 'unreadable.txt'}",) if number else ()


def _surveyed(
    headers: list[Header], image_size: int | None, colors: Colors, bits: int | None, place: str
) -> tuple[tuple[int, int, int], ReadingRules, tuple[str, ...]]:
    """Return the shape of all images, the rules to read them by, and notes on them."""
    survey = Survey()
    for header in headers:
        survey.add(header.traits, header.levels)
    channels, rules = survey.decide(colors, place, bits)
    shape = _shape([header.traits.size for header in headers], image_size, channels)
    return shape, rules, tuple(survey.notes(channels, rules))


def _shape(sizes: list[tuple[int, int]], image_size: int | None, channels: int) -> tuple[int, int, int]:
    """Return channels, height and width that all images get."""
    if image_size:
        return channels, image_size, image_size
    if len(set(sizes)) == 1:
        width, height = sizes[0]
        return channels, height, width
    median = statistics.median(map(min, sizes))
    side = min(LARGEST_USUAL_SIZE, max(8, round(median / 8) * 8))
    logger.info(
        "Images of %d sizes: the shorter side is resized to %d pixels, the middle square cut out. Another size: "
        "--data.args '{\"image_size\": 96}'",
        *(len(set(sizes)), side),
    )
    return channels, side, side


def _report(
    unreadable: dict[Path, str], listed: list[tuple[str, Path, int]], tree: Tree, cache: Path, max_share: float
) -> None:
    """Log the unreadable files and list them in ``unreadable.txt``.

    Raises:
        UserError: they are too many, or all of a class.
    """
    note = cache / "unreadable.txt"
    if not unreadable:
        note.unlink(missing_ok=True)
        return
    note.write_text("".join(f"{file}\t{reason}\n" for file, reason in unreadable.items()), encoding="utf-8")
    faults = [f"{file}: {reason}" for file, reason in list(unreadable.items())[:5]]
    summary = f"{len(unreadable):,} of {len(listed):,} images can't be read (all of them: {note}):"
    message = "\n  ".join([summary, *faults])
    readable = {(split, label) for split, file, label in listed if file not in unreadable}
    if lost := sorted({(split, label) for split, _, label in listed} - readable):
        classes = ", ".join(f"{split} {tree.classes[label]}" for split, label in lost)
        raise UserError(f"{message}\nNone is left of {classes}.", "Mend or replace these files.")
    if len(unreadable) > max_share * len(listed):
        raise UserError(
            f"{message}\nMore than {percent(max_share, 0)}.",
            "Mend or remove these files, or allow more by unreadable_share in --data.args.",
        )
    logger.warning("%s" + "\n  %s" * len(faults) + "\nThey are left out.", summary, *faults)
