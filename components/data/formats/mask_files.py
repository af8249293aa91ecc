"""Pairs of an image and a mask in folders of the same names: found, and the masks decoded as classes."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from torchmill.components.data.formats.class_folders import SPLIT_NAMES
from torchmill.components.errors import UserError, shortened
from torchmill.components.reading.folders import walk
from torchmill.components.reading.pictures import SUFFIXES

IMAGES, MASKS = ("images", "image", "imgs"), ("masks", "mask")
"""Names of the folders."""

ENDING = "_mask"
"""Ending that masks may have beside the name of their image."""

LAYOUT = "Put images into images/ and masks of the same names into masks/, or these two into train/ and test/."


@dataclass(frozen=True)
class Pair:
    """An image with its mask."""

    name: str
    """Path below the folder of images, without its ending."""
    image: Path
    mask: Path


def read_pairs(root: Path) -> dict[str, list[Pair]]:
    """Return the pairs of each split in the order of their names; train alone if the folder has no splits.

    Raises:
        UserError: folders are missing, or files have no partner; all of these are named.
    """
    if not root.is_dir():
        raise UserError(f"There is no folder {root}." if not root.exists() else f"{root} is a file.", LAYOUT)
    places = dict(_places(root))
    if "train" not in places:
        names = sorted(path.name for path in root.iterdir() if path.is_dir())
        raise UserError(f"{root} has no folders images and masks{f', but {shortened(names)}' * bool(names)}.", LAYOUT)
    pairs, faults = {}, []
    for split, (images, masks) in places.items():
        by_name, of_masks = _files(images), {name.removesuffix(ENDING): file for name, file in _files(masks).items()}
        common = sorted(by_name.keys() & of_masks.keys())
        pairs[split] = [Pair(name, by_name[name], of_masks[name]) for name in common]
        for files, others, place, noun in ((by_name, of_masks, images, "mask"), (of_masks, by_name, masks, "image")):
            if alone := sorted(files.keys() - others.keys()):
                faults.append(f"{len(alone):,} of {len(files):,} in {place} have no {noun}: {shortened(alone)}")
        if not common and not faults:
            faults.append(f"{images} and {masks} hold no images")
    if faults:
        raise UserError(f"{'; '.join(faults)}.", "Name each mask like its image; other endings are fine.")
    return pairs


def _places(root: Path) -> Iterator[tuple[str, tuple[Path, Path]]]:
    """Yield the folders of images and masks of each split: root/split/images, root/images/split or root/images."""
    if pair := _both(root):
        splits = [split for split in _splits(pair[0]) if split in _splits(pair[1])]
        if "train" in splits:
            for split in splits:
                yield split, (_splits(pair[0])[split], _splits(pair[1])[split])
        else:
            yield "train", pair
        return
    for split, folder in _splits(root).items():
        if pair := _both(folder):
            yield split, pair


def _splits(folder: Path) -> dict[str, Path]:
    folders = {path.name.lower(): path for path in folder.iterdir() if path.is_dir()}
    return {split: folders[name] for split, names in SPLIT_NAMES.items() for name in names if name in folders}


def _both(folder: Path) -> tuple[Path, Path] | None:
    folders = {path.name.lower(): path for path in folder.iterdir() if path.is_dir()}
    images, masks = (next((folders[name] for name in names if name in folders), None) for names in (IMAGES, MASKS))
    return (images, masks) if images and masks else None


def _files(folder: Path) -> dict[str, Path]:
    """Return the images below a folder by their path without its ending.

    Raises:
        UserError: two differ in their endings alone.
    """
    files: dict[str, Path] = {}
    for place, names, _ in walk(folder):
        for name in names:
            file = Path(place) / name
            if file.suffix.lower() not in SUFFIXES:
                continue
            key = file.relative_to(folder).with_suffix("").as_posix()
            if key in files:
                raise UserError(f"{file} and {files[key]} have one name.", "Keep one of them.")
            files[key] = file
    return files


def mask_size(file: Path) -> tuple[int, int]:
    """Return width and height of a mask, from its header."""
    with Image.open(file) as image:
        return image.size


def decoded_mask(file: Path, size: tuple[int, int]) -> np.ndarray:
    """Return the classes of a mask, int32 (H, W), brought to a size as images are, by the nearest pixel.

    Args:
        size: width and height.

    Raises:
        UserError: its pixels are colours.
    """
    with Image.open(file) as image:
        values = np.asarray(image).astype(np.int32)
    if values.ndim == 3 and (values[..., :3] == values[..., :1]).all():
        values = values[..., 0]
    if values.ndim != 2:
        raise UserError("holds colours")
    if values.shape[::-1] != size:
        values = np.asarray(ImageOps.fit(Image.fromarray(values), size, Image.Resampling.NEAREST))
    return values


def as_classes(masks: Sequence[np.ndarray]) -> tuple[list[np.ndarray], tuple[str, ...]]:
    """Return masks of 0 and 255 alone as 0 and 1, with a note; others as they are, as bytes if they fit."""
    levels = np.unique(np.concatenate([np.unique(mask) for mask in masks]))
    if levels.tolist() != [0, 255]:
        return [mask.astype(np.uint8 if levels[-1] <= 255 and levels[0] >= 0 else np.int32) for mask in masks], ()
    return [(mask == 255).astype(np.int32) for mask in masks], ("masks hold 0 and 255 alone: 255 is taken as class 1",)
