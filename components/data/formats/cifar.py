"""The "binary version" of CIFAR: a tar file with records of label bytes and 3,072 pixels. No pickles."""

import tarfile
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from torchmill.components.data.downloads.download import download
from torchmill.components.data.downloads.published_file import PublishedFile
from torchmill.components.data.splits import Split, Splits
from torchmill.components.errors import UserError

MIRRORS = ("https://www.cs.toronto.edu/~kriz/",)
PIXELS = 3 * 32 * 32
"""Bytes of an image."""


def load(file: PublishedFile, downloads: Path, train: Sequence[str], test: Sequence[str], label_bytes: int) -> Splits:
    """Download the tar file if it is missing, and read its members for training and test.

    Nothing is unpacked to disk: members are matched by their whole names.

    Args:
        label_bytes: number of labels in a record; the last one counts.

    Raises:
        UserError: as ``download``, or the file is damaged.
    """
    path = downloads / file.name
    download(file, path, MIRRORS)
    names = {*train, *test}
    contents: dict[str, bytes] = {}
    try:
        with tarfile.open(path, "r:gz") as tar:
            for member in tar:
                if member.name in names and member.isreg() and member.size <= file.content_bytes:
                    file_object = tar.extractfile(member)
                    contents[member.name] = file_object.read() if file_object else b""
                    if len(contents) == len(names):
                        break
    except (tarfile.TarError, EOFError, OSError, zlib.error) as error:
        raise _damaged(path, str(error) or "it breaks off") from error
    if missing := sorted(names - set(contents)):
        raise _damaged(path, f"it holds no {', '.join(missing)}")
    return Splits(
        _split([contents[name] for name in train], label_bytes, path),
        _split([contents[name] for name in test], label_bytes, path),
    )


def _split(contents: list[bytes], label_bytes: int, path: Path) -> Split:
    record = label_bytes + PIXELS
    content = b"".join(contents)
    if not content or len(content) % record:
        raise _damaged(path, f"{len(content):,} bytes are not records of {record:,}")
    rows = np.frombuffer(content, np.uint8).reshape(-1, record)
    images_NCHW = rows[:, label_bytes:].reshape(-1, 3, 32, 32)
    return Split(np.ascontiguousarray(images_NCHW), rows[:, label_bytes - 1].astype(np.int64))


def _damaged(path: Path, reason: str) -> UserError:
    return UserError(f"{path} is not the tar file that its name promises: {reason}.", "Delete it and fetch it anew.")
