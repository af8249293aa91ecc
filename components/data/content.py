"""Digests of samples' content, 64 bits each. They decide on splits, and tell which samples a model was trained on.

They lie beside the arrays of a prepared data set, in a file per split. Encodings don't change them.
"""

import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from torchmill.components.encoding.vocabulary import normalized
from torchmill.components.refs import DataRef

DTYPE = np.dtype("<u8")
"""Type of digests: 64 bits tell ten million samples apart, but for one pair in 370,000 such data sets."""

BLOCK = 4096
"""Samples that are read at once; an array that is mapped from disk may be larger than the memory."""


def digests_file(folder: Path, split: str) -> Path:
    """Return the path of the digests of a split in a prepared data set."""
    return folder / f"{split}_digests.npy"


def digests_of(contents: Iterable[bytes]) -> np.ndarray:
    """Return the digest of each content, uint64 (N,)."""
    return np.frombuffer(b"".join(hashlib.blake2b(each, digest_size=8).digest() for each in contents), DTYPE)


def row_digests(inputs: np.ndarray) -> np.ndarray:
    """Return the digest of each row's bytes, uint64 (N,); the two zeros of fractions are one number.

    Example:
        >>> row_digests(np.array([[0.5, 0.0], [0.5, -0.0]], np.float32))[0] == row_digests(...)[1]  # doctest: +SKIP
        True
    """
    blocks = (np.asarray(inputs[start : start + BLOCK]) for start in range(0, len(inputs), BLOCK))
    signless = (block + block.dtype.type(0) if block.dtype.kind == "f" else block for block in blocks)
    return np.concatenate(
        [np.empty(0, DTYPE), *(digests_of(row.tobytes() for row in block) for block in signless)], dtype=DTYPE
    )


def text_digests(texts: Sequence[str]) -> np.ndarray:
    """Return the digest of each text; texts that differ by case alone have the same."""
    return digests_of(normalized(text).casefold().encode(errors="surrogatepass") for text in texts)


def read_digests(data: DataRef, split: str) -> np.ndarray:
    """Return the digests of a split; data that an earlier version prepared may have no file, but arrays to digest."""
    file = digests_file(data.folder, split)
    if data.digests_sha256 or file.is_file():
        return np.load(file)
    return row_digests(np.load(data.folder / f"{split}_inputs.npy", mmap_mode="r"))


def trained_digests(data: DataRef) -> np.ndarray:
    """Return the digests of all that a run learns from, sorted: training samples, and those of validation.

    Validation chooses the epoch and calibrates the probabilities, so a score on its samples flatters, too.
    """
    splits = ("train", "validation") if data.validation_size else ("train",)
    return np.unique(np.concatenate([read_digests(data, split) for split in splits]))


def recorded_digests(file: Path) -> np.ndarray | None:
    """Return the digests that a run has recorded; None if the file is damaged."""
    try:
        digests = np.load(file)
    except (OSError, ValueError, EOFError):
        return None
    return digests if digests.dtype == DTYPE and digests.ndim == 1 else None


def count_known(data: DataRef, trained_on: np.ndarray) -> int:
    """Count the test samples whose digests are among those of training."""
    return int(np.isin(read_digests(data, "test"), trained_on).sum())
