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
from PIL import Image

from torchmill.components.data.progress import counted
from torchmill.components.errors import UserError
from torchmill.components.files import writing
from torchmill.components.reading import pictures
from torchmill.components.reading.pictures import Levels, Traits
from torchmill.components.reading.rules import ReadingRules


@dataclass(frozen=True)
class Header:
    """Facts about an image file."""

    traits: Traits
    levels: Levels | None
    """Facts about its pixels; None if they were not measured."""
    digest: str
    """Digest of the file."""


MEASURED = 1000
"""Number of files with opacity whose pixels are measured: enough to choose the ground for all."""


def read_headers(files: Sequence[Path], max_pixels: int) -> list[Header | str]:
    """Return each image's header, or in words why it can't be read.

    Images of 16 bits are decoded, since the largest level decides how all are read, and some with opacity.
    """
    measured = MEASURED / max(len(files), 1)

    def read(file: Path) -> Header | str:
        return _or_reason(lambda: _header(file, min(max_pixels, pictures.PILLOWS_LIMIT), measured))

    return _map(read, files, "Read headers of images")


def decode(
    files: Sequence[Path], shape: tuple[int, int, int], rules: ReadingRules, path: Path, written: list[Path]
) -> tuple[np.ndarray, dict[Path, str]]:
    """Decode images into a file at ``path``, mapped into memory.

    Args:
        shape: channels (1, 3 or 4), height, width.
        written: list that gets the paths of the files that are written.

    Returns:
        The images, uint8 NCHW, in the order of the files; and the unreadable files, each with the reason.
    """
    images_NCHW = new_array(path, (len(files), *shape), written)

    def read(numbered: tuple[int, Path]) -> str:
        number, file = numbered
        pixels = _or_reason(lambda: _pixels(file, shape, rules))
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


def read_pixels(file: Path, shape: tuple[int, int, int], rules: ReadingRules, max_pixels: int) -> np.ndarray | str:
    """Decode one image as ``decode`` does, unless its header says that it is too large.

    Args:
        shape: channels (1, 3 or 4), height, width.

    Returns:
        Pixels, uint8 CHW; or in words why the image can't be read.
    """

    def read() -> np.ndarray | str:
        with Image.open(file) as image:
            refusal = pictures.refusal(image, min(max_pixels, pictures.PILLOWS_LIMIT))
            return refusal or pictures.fitted(pictures.decoded(image, max(shape[1:])), shape, rules)

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


def _header(file: Path, max_pixels: int, measured: float) -> Header | str:
    content = file.read_bytes()
    if not content:
        return "is empty (0 bytes)"
    digest = hashlib.blake2b(content, digest_size=16).hexdigest()
    with Image.open(io.BytesIO(content)) as image:
        if refusal := pictures.refusal(image, max_pixels):
            return refusal
        traits = pictures.traits(image)
        is_chosen = traits.has_opacity and int(digest[:8], 16) < measured * 16**8
        levels = pictures.decoded(image).levels() if traits.is_deep or is_chosen else None
    return Header(traits, levels, digest)


def _pixels(file: Path, shape: tuple[int, int, int], rules: ReadingRules) -> np.ndarray:
    with Image.open(file) as image:
        return pictures.fitted(pictures.decoded(image, max(shape[1:])), shape, rules)
