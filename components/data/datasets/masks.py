"""Masks: your own images with a mask each, in folders images and masks with the same names; masks:PATH.

PATH/images/FILE and PATH/masks/FILE, or these below PATH/train and perhaps PATH/val and PATH/test. A mask holds the
class of each pixel as its grey level or its place in the palette; 255 is ignored. Licence: yours.
"""

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field

from torchmill.components.data.field_splits import FieldSplits
from torchmill.components.data.formats.image_files import Header, read_headers, read_pixels
from torchmill.components.data.formats.mask_files import Pair, as_classes, decoded_mask, mask_size, read_pairs
from torchmill.components.data.formats.user_fields import load_fields
from torchmill.components.errors import UserError
from torchmill.components.reading.survey import Survey

NAMED_FIELDS = True

LARGEST_USUAL_SIZE = 256
"""Largest size, in pixels, that is chosen if nobody names one."""

MOST_TOLD = 5
"""Faults that an error lists."""


def load(
    path: Path,
    image_size: Annotated[int | None, Field(ge=1, le=4096)] = None,
    colors: Literal["auto", "grey", "rgb", "rgba"] = "auto",
    classes: str | list[str] = "",
    max_pixels: Annotated[int, Field(ge=1, le=170_000_000)] = 64_000_000,
) -> FieldSplits:
    """Read fields ``image``, uint8 (N, C, H, W), and ``mask``, the class of each pixel (N, H, W).

    Images of one size keep it. If sizes differ, or ``image_size`` is set, the shorter side of both is resized and the
    middle square is cut out; masks take the nearest pixel.

    Args:
        image_size: height and width in pixels. Without it, if sizes differ, the median of the shorter sides, as a
            multiple of 8, at most 256.
        colors: grey, rgb, or rgba for four channels as they are stored; auto is grey if all images are stored as grey.
        classes: names of the classes, separated by commas or as a list.
        max_pixels: largest image to read, in pixels; 170 million at most.

    Raises:
        UserError: files have no partner, can't be read, or a mask has another size than its image.
    """
    pairs = read_pairs(path)
    listed = [pair for members in pairs.values() for pair in members]
    headers = _headers(listed, max_pixels)
    survey = Survey()
    for header in headers:
        survey.add(header.traits, header.levels)
    channels, rules = survey.decide(colors, str(path))
    sizes = [header.traits.size for header in headers]
    height, width = _side(sizes, image_size)
    shape = (channels, height, width)
    images = _all(listed, lambda pair: read_pixels(pair.image, shape, rules, max_pixels), "image")
    masks, notes = as_classes(_all(listed, lambda pair: _mask(pair, (width, height)), "mask"))
    returned: dict[str, Any] = {"targets": ["mask"]}
    if names := [name.strip() for name in (classes.split(",") if isinstance(classes, str) else classes) if name]:
        returned["names"] = {"mask": names}
    start, origins = 0, {}
    for split, members in pairs.items():
        rows = slice(start, start + len(members))
        returned[split] = {"image": _stacked(images[rows]), "mask": np.stack(masks[rows])}
        origins[split] = [pair.name for pair in members]
        start += len(members)
    splits = load_fields(returned, str(path), origins=origins)
    return replace(splits, notes=(*survey.notes(channels, rules), *_resized(sizes, shape), *notes, *splits.notes))


def _headers(pairs: Sequence[Pair], max_pixels: int) -> list[Header]:
    """Return the headers of the images.

    Raises:
        UserError: images or masks can't be read, or have different sizes; all of them are counted.
    """
    headers = read_headers([pair.image for pair in pairs], max_pixels)
    faults = []
    for pair, header in zip(pairs, headers, strict=True):
        if isinstance(header, str):
            faults.append(f"{pair.image} {header}")
            continue
        try:
            size = mask_size(pair.mask)
        except OSError as error:
            faults.append(f"{pair.mask} can't be read: {error}")
            continue
        if size != header.traits.size:
            image, mask = ("x".join(map(str, sides)) for sides in (header.traits.size, size))
            faults.append(f"{pair.image} has {image} pixels, and its mask {mask}")
    _refuse(faults, len(pairs))
    return [header for header in headers if isinstance(header, Header)]


def _refuse(faults: Sequence[str], pairs: int) -> None:
    if faults:
        more = f"; and {len(faults) - MOST_TOLD:,} more of {pairs:,} pairs" * (len(faults) > MOST_TOLD)
        raise UserError(f"{'; '.join(faults[:MOST_TOLD])}{more}.", "Mend or remove these pairs.")


def _side(sizes: Sequence[tuple[int, int]], image_size: int | None) -> tuple[int, int]:
    """Return height and width that all images get."""
    if image_size:
        return image_size, image_size
    if len(set(sizes)) == 1:
        return sizes[0][1], sizes[0][0]
    side = min(LARGEST_USUAL_SIZE, max(8, round(median(map(min, sizes)) / 8) * 8))
    return side, side


def _resized(sizes: Sequence[tuple[int, int]], shape: tuple[int, int, int]) -> tuple[str, ...]:
    if len(set(sizes)) == 1:
        return ()
    return (f"images of {len(set(sizes))} sizes: their middle squares become {shape[2]}x{shape[1]} pixels",)


def _all(pairs: Sequence[Pair], read: Callable[[Pair], np.ndarray | str], noun: str) -> list[np.ndarray]:
    """Return the pixels of all pairs, decoded in threads."""
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        results = list(pool.map(read, pairs))
    faults = [f"{getattr(pair, noun)} {why}" for pair, why in zip(pairs, results, strict=True) if isinstance(why, str)]
    _refuse(faults, len(pairs))
    return [pixels for pixels in results if not isinstance(pixels, str)]


def _mask(pair: Pair, size: tuple[int, int]) -> np.ndarray | str:
    try:
        return decoded_mask(pair.mask, size)
    except UserError:
        return "holds colours: write the class of each pixel as a grey level, or as a place in a palette"
    except (OSError, ValueError, SyntaxError) as error:
        return f"can't be read: {' '.join(str(error).split())}"


def _stacked(images: Sequence[np.ndarray]) -> np.ndarray:
    """Return images (N, C, H, W); grey ones (N, H, W)."""
    pixels = np.stack(images)
    return pixels[:, 0] if pixels.shape[1] == 1 else pixels
