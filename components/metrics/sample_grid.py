"""Pictures of samples side by side: images, masks over images, and series."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from torchmill.components.files import write_atomically

COLOURS = np.array(
    [
        *((0, 0, 0), (230, 75, 53), (77, 187, 213), (0, 160, 135), (60, 84, 136), (243, 155, 127), (132, 145, 180)),
        *((145, 209, 194), (220, 0, 0), (126, 97, 72), (176, 156, 133), (255, 220, 0), (120, 60, 200), (0, 110, 40)),
    ],
    np.float32,
)
"""Colours of classes; 0, the background, is left as it is. More classes repeat them."""

SMALLEST_SIDE = 96
"""Side, in pixels, to which smaller images are enlarged."""
GAP = 4
IGNORED = (90, 90, 90)


def as_rgb(images: np.ndarray) -> np.ndarray:
    """Return images (N, C, H, W) of any range as uint8 (N, H, W, 3): the first, or the first three channels."""
    channels = images[:, :3] if images.shape[1] >= 3 else np.repeat(images[:, :1], 3, 1)
    low, high = float(channels.min()), float(channels.max())
    if low < 0 or high > 255 or high <= 1.5:
        channels = (channels - low) / max(high - low, 1e-9) * 255
    return channels.clip(0, 255).round().astype(np.uint8).transpose(0, 2, 3, 1)


def overlaid(pictures: np.ndarray, masks: np.ndarray) -> np.ndarray:
    """Return pictures (N, H, W, 3) with the classes of masks (N, H, W) in colours; 255 or less than 0 is ignored."""
    classes = masks.astype(np.int64)
    is_ignored = (classes < 0) | (masks == 255)
    number = np.where(classes > 0, (classes - 1) % (len(COLOURS) - 1) + 1, 0)
    mixed = 0.45 * pictures.astype(np.float32) + 0.55 * COLOURS[number]
    shown = np.where((number > 0)[..., None], mixed, pictures)
    return np.where(is_ignored[..., None], np.array(IGNORED), shown).astype(np.uint8)


def save_grid(rows: Sequence[np.ndarray], path: Path) -> None:
    """Write a picture whose rows are pictures, uint8 (N, H, W, 3) each, of one size.

    Example:
        >>> save_grid([as_rgb(images), overlaid(as_rgb(images), masks)], Path("samples.png"))  # doctest: +SKIP
    """
    height, width = rows[0].shape[1:3]
    scale = max(1, -(-SMALLEST_SIDE // max(height, width)))
    height, width = scale * height, scale * width
    columns = max(map(len, rows))
    sheet = np.full((len(rows) * (height + GAP) + GAP, columns * (width + GAP) + GAP, 3), 255, np.uint8)
    for row, pictures in enumerate(rows):
        for column, picture in enumerate(pictures):
            top, left = GAP + row * (height + GAP), GAP + column * (width + GAP)
            sheet[top : top + height, left : left + width] = picture.repeat(scale, 0).repeat(scale, 1)
    write_atomically(path, lambda partial: Image.fromarray(sheet).save(partial, format="png"))
