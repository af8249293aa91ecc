"""Image files of all sizes and modes, decoded on all cores into arrays that lie on disk."""

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

from torchmill.components.data import disk
from torchmill.components.data.progress import counted
from torchmill.components.errors import UserError

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm", ".pnm"})

GREY_MODES = frozenset({"1", "L", "LA", "I", "I;16", "I;16B", "I;16L", "I;16N"})
ORIENTATION = 0x0112
"""The EXIF tag; from 5 on, width and height change places."""
PILLOWS_LIMIT = 170_000_000
"""Beyond about this many pixels Pillow itself refuses."""


@dataclass(frozen=True)
class Header:
    size: tuple[int, int]
    """Width and height as the image is looked at."""
    grey: bool
    digest: str
    """Of the file."""


def read_headers(files: Sequence[Path], max_pixels: int) -> list[Header | str]:
    """Read what each image is without decoding it; a reason in words where it can't be read."""

    def read(file: Path) -> Header | str:
        return _guarded(lambda: _header(file, min(max_pixels, PILLOWS_LIMIT)))

    return _all(read, files, "Looked at images")


def decode(
    files: Sequence[Path], shape: tuple[int, int, int], path: Path, made: list[Path]
) -> tuple[np.ndarray, dict[Path, str]]:
    """Decode images into a file at ``path``, mapped into memory.

    Args:
        shape: channels (1 or 3), height, width.
        made: the files that this writes are put there.

    Returns:
        The images, uint8 NCHW, in the order of the files; and those that can't be read, with the reason.
    """
    images_NCHW = new_array(path, (len(files), *shape), made)

    def read(numbered: tuple[int, Path]) -> str:
        number, file = numbered
        found = _guarded(lambda: _pixels(file, shape))
        if isinstance(found, str):
            return found
        images_NCHW[number] = found
        return ""

    reasons = _all(read, list(enumerate(files)), "Decoded images")
    faults = {file: reason for file, reason in zip(files, reasons, strict=True) if reason}
    if not faults or len(faults) == len(files):
        return images_NCHW, faults
    left = [number for number, reason in enumerate(reasons) if not reason]
    closed_up = new_array(path.with_name(f"{path.name}.closed_up"), (len(left), *shape), made)
    for row, number in enumerate(left):
        closed_up[row] = images_NCHW[number]
    path.unlink()
    return closed_up, faults


def read_pixels(file: Path, shape: tuple[int, int, int], max_pixels: int) -> np.ndarray | str:
    """Decode one image as ``decode`` does, after a look at its size; a reason in words where it can't be read.

    Args:
        shape: channels (1 or 3), height, width.
    """

    def read() -> np.ndarray | str:
        with Image.open(file) as image:
            return _refused(image, min(max_pixels, PILLOWS_LIMIT)) or _fitted(image, shape)

    return _guarded(read)


def new_array(path: Path, shape: tuple[int, ...], made: list[Path]) -> np.memmap:
    """Make a file for a uint8 array, mapped into memory.

    Its room is taken at once: a disk that is full when a page is written would end the process without a word.
    """
    size = int(np.prod(shape))
    made.append(path)
    with disk.writing(path.parent, size):
        mapped = np.lib.format.open_memmap(path, "w+", np.uint8, shape)
        if hasattr(os, "posix_fallocate"):
            with path.open("r+b") as file:
                os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
    return mapped


@contextlib.contextmanager
def kept_on_success(folder: Path) -> Generator[list[Path], None, None]:
    """Remove the files in the list where the block fails."""
    made: list[Path] = []
    try:
        yield made
    except BaseException:
        for path in made:
            with contextlib.suppress(OSError):
                path.unlink()
        raise


def _all(work: Callable[[Any], Any], items: Sequence[Any], label: str) -> list[Any]:
    """Do the work on all items, in threads: Pillow lets the others run while it decodes."""
    chunks = [items[start : start + 64] for start in range(0, len(items), 64)]

    def do(chunk: Sequence[Any]) -> list[Any]:
        return [work(item) for item in chunk]

    results: list[Any] = []
    with warnings.catch_warnings(), counted(label, len(items)) as report, ThreadPoolExecutor(os.cpu_count()) as pool:
        warnings.simplefilter("ignore")  # Pillow's, of what is odd in a file and can be read all the same
        for part in pool.map(do, chunks):
            results += part
            report(len(part))
    return results


def _guarded(work: Callable[[], Any]) -> Any:
    """Give what ``work`` does, or the reason in words: decoders fail in many ways on files that are broken."""
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
        if refused := _refused(image, max_pixels):
            return refused
        width, height = image.size
        # What Pillow would decode a PNG for, which may have it after the pixels.
        exif = image.getexif() if image.format != "PNG" or "exif" in image.info else {}
        turned = exif.get(ORIENTATION, 1) in (5, 6, 7, 8)
        grey = image.mode in GREY_MODES
    size = (height, width) if turned else (width, height)
    return Header(size, grey, hashlib.blake2b(content, digest_size=16).hexdigest())


def _refused(image: Image.Image, max_pixels: int) -> str:
    """Say what keeps an image from being decoded, by its header; empty if nothing does."""
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
        # A large one is decoded at a half, a quarter or an eighth, still twice as large as needed: much faster.
        image.draft(image.mode, (2 * max(height, width), 2 * max(height, width)))
    image.load()
    upright = ImageOps.exif_transpose(image)
    plain = _plain(upright, channels)
    if plain.size != (width, height):
        # The shorter side fits, the rest is cut off on both sides alike.
        plain = ImageOps.fit(plain, (width, height), Image.Resampling.BILINEAR)
    pixels = np.asarray(plain)
    return pixels[None] if channels == 1 else pixels.transpose(2, 0, 1)


def _plain(image: Image.Image, channels: int) -> Image.Image:
    """Make an image grey or RGB: what is transparent is white, 16 bits become 8."""
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
