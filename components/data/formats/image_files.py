"""Image files of all sizes and modes, decoded on all cores into arrays on disk."""

import contextlib
import hashlib
import io
import os
import warnings
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from torchmill.components.data.progress import counted
from torchmill.components.errors import UserError
from torchmill.components.files import writing

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm", ".pnm"})

GREY_MODES = frozenset({"1", "L", "LA", "I", "I;16", "I;16B", "I;16L", "I;16N"})
ORIENTATION = 0x0112
"""EXIF tag of the orientation; from 5 on, width and height are swapped."""

PILLOWS_LIMIT = 170_000_000
"""Largest image, in pixels, that Pillow itself opens, roughly."""


@dataclass(frozen=True)
class Header:
    """Facts about an image file that need no decoding."""

    size: tuple[int, int]
    """Width and height of the upright image."""
    grey: bool
    digest: str
    """Digest of the file."""


def read_headers(files: Sequence[Path], max_pixels: int) -> list[Header | str]:
    """Return each image's header, or in words why it can't be read. Nothing is decoded."""

    def read(file: Path) -> Header | str:
        return _or_reason(lambda: _header(file, min(max_pixels, PILLOWS_LIMIT)))

    return _map(read, files, "Read headers of images")


def decode(
    files: Sequence[Path], shape: tuple[int, int, int], path: Path, written: list[Path]
) -> tuple[np.ndarray, dict[Path, str]]:
    """Decode images into a file at ``path``, mapped into memory.

    Args:
        shape: channels (1 or 3), height, width.
        written: list that gets the paths of the files that are written.

    Returns:
        The images, uint8 NCHW, in the order of the files; and the unreadable files, each with the reason.
    """
    images_NCHW = new_array(path, (len(files), *shape), written)

    def read(numbered: tuple[int, Path]) -> str:
        number, file = numbered
        pixels = _or_reason(lambda: _pixels(file, shape))
        if isinstance(pixels, str):
            return pixels
        images_NCHW[number] = pixels
        return ""

    reasons = _map(read, list(enumerate(files)), "Decoded images")
    faults = {file: reason for file, reason in zip(files, reasons, strict=True) if reason}
    if not faults or len(faults) == len(files):
        return images_NCHW, faults
    readable = [number for number, reason in enumerate(reasons) if not reason]
    without_gaps = new_array(path.with_name(f"{path.name}.without_gaps"), (len(readable), *shape), written)
    for row, number in enumerate(readable):
        without_gaps[row] = images_NCHW[number]
    path.unlink()
    return without_gaps, faults


def read_pixels(file: Path, shape: tuple[int, int, int], max_pixels: int) -> np.ndarray | str:
    """Decode one image as ``decode`` does, unless its header says that it is too large.

    Args:
        shape: channels (1 or 3), height, width.

    Returns:
        Pixels, uint8 CHW; or in words why the image can't be read.
    """

    def read() -> np.ndarray | str:
        with Image.open(file) as image:
            return _refusal(image, min(max_pixels, PILLOWS_LIMIT)) or _fitted(image, shape)

    return _or_reason(read)


def new_array(path: Path, shape: tuple[int, ...], written: list[Path]) -> np.memmap:
    """Create a file for a uint8 array, mapped into memory.

    Its disk space is allocated at once: a full disk at a later page write would kill the process without a message.
    """
    size = int(np.prod(shape))
    written.append(path)
    with writing(path.parent, size):
        mapped = np.lib.format.open_memmap(path, "w+", np.uint8, shape)
        if hasattr(os, "posix_fallocate"):
            with path.open("r+b") as file:
                os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
    return mapped


@contextlib.contextmanager
def removed_on_failure() -> Generator[list[Path], None, None]:
    """Yield a list for paths; delete these files if the block fails."""
    written: list[Path] = []
    try:
        yield written
    except BaseException:
        for path in written:
            with contextlib.suppress(OSError):
                path.unlink()
        raise


def _map(work: Callable[[Any], Any], items: Sequence[Any], label: str) -> list[Any]:
    """Return the work's results on all items, done in threads: Pillow releases the GIL while it decodes."""
    chunks = [items[start : start + 64] for start in range(0, len(items), 64)]

    def do(chunk: Sequence[Any]) -> list[Any]:
        return [work(item) for item in chunk]

    results: list[Any] = []
    with warnings.catch_warnings(), counted(label, len(items)) as report, ThreadPoolExecutor(os.cpu_count()) as pool:
        warnings.simplefilter("ignore")  # Pillow warns about oddities in files that it can read
        for part in pool.map(do, chunks):
            results += part
            report(len(part))
    return results


def _or_reason(work: Callable[[], Any]) -> Any:
    """Return the result of ``work``, or in words why it failed: decoders raise all kinds of errors on damaged files."""
    try:
        return work()
    except UserError:
        raise
    except Image.UnidentifiedImageError:
        return "is no image"
    except Image.DecompressionBombError:
        return "has too many pixels"
    except MemoryError:
        return "does not fit into the memory"
    except Exception as error:
        return " ".join(str(getattr(error, "strerror", None) or error).split()) or type(error).__name__


def _header(file: Path, max_pixels: int) -> Header | str:
    content = file.read_bytes()
    if not content:
        return "is empty (0 bytes)"
    with Image.open(io.BytesIO(content)) as image:
        if refusal := _refusal(image, max_pixels):
            return refusal
        width, height = image.size
        # A PNG may have EXIF after its pixels, for which Pillow would decode them.
        exif = image.getexif() if image.format != "PNG" or "exif" in image.info else {}
        is_turned = exif.get(ORIENTATION, 1) in (5, 6, 7, 8)
        is_grey = image.mode in GREY_MODES
    size = (height, width) if is_turned else (width, height)
    return Header(size, is_grey, hashlib.blake2b(content, digest_size=16).hexdigest())


def _refusal(image: Image.Image, max_pixels: int) -> str:
    """Return in words why the header forbids decoding an image; empty if it doesn't."""
    width, height = image.size
    if width * height > max_pixels:
        return f"has {width:,} × {height:,} pixels, more than max_pixels, {max_pixels:,}"
    if image.mode == "F" or (image.mode == "I" and image.format != "PNG"):
        return f"has pixels of 32 bits ({image.mode}), whose range is unknown"
    return ""


def _pixels(file: Path, shape: tuple[int, int, int]) -> np.ndarray:
    with Image.open(file) as image:
        return _fitted(image, shape)


def _fitted(image: Image.Image, shape: tuple[int, int, int]) -> np.ndarray:
    channels, height, width = shape
    if image.format == "JPEG" and image.mode in ("L", "RGB"):
        # Faster: decode at a half, a quarter or an eighth, still twice as large as needed.
        image.draft(image.mode, (2 * max(height, width), 2 * max(height, width)))
    image.load()
    upright = ImageOps.exif_transpose(image)
    plain = _plain(upright, channels)
    if plain.size != (width, height):
        # The shorter side fits; the longer is cut equally on both ends.
        plain = ImageOps.fit(plain, (width, height), Image.Resampling.BILINEAR)
    pixels = np.asarray(plain)
    return pixels[None] if channels == 1 else pixels.transpose(2, 0, 1)


def _plain(image: Image.Image, channels: int) -> Image.Image:
    """Return an image in grey or RGB: on white if it is transparent, with 8 bits instead of 16."""
    mode = "L" if channels == 1 else "RGB"
    if image.mode.startswith("I"):
        image = Image.fromarray((np.asarray(image).astype(np.int64) >> 8).clip(0, 255).astype(np.uint8))
    elif image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        layered = image.convert("RGBA")
        white = Image.new("RGBA", layered.size, "white")
        image = Image.alpha_composite(white, layered).convert("RGB")
    elif image.mode == "P":
        image = image.convert("RGB")
    return image if image.mode == mode else image.convert(mode)
