"""The "binary version" of the CIFAR data sets: records of label bytes and 3,072 pixels in a tar file. No pickles."""

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


def load(file: PublishedFile, downloads: Path, train: Sequence[str], test: Sequence[str], label_bytes: int) -> Splits:
    """Download the tar file where it isn't there, and read its members for training and for test.

    Nothing is unpacked to disk: members are found by their whole names, and read as bytes. Of several labels the last
    one counts.

    Raises:
        UserError: as ``download`` does, or the file is not what its name says.
    """
    path = downloads / file.name
    download(file, path, MIRRORS)
    wanted = {*train, *test}
    held: dict[str, bytes] = {}
    try:
        with tarfile.open(path, "r:gz") as tar:
            for member in tar:
                if member.name in wanted and member.isreg() and member.size <= file.content_bytes:
                    opened = tar.extractfile(member)
                    held[member.name] = opened.read() if opened else b""
                    if len(held) == len(wanted):
                        break
    except (tarfile.TarError, EOFError, OSError, zlib.error) as error:
        raise _wrong(path, str(error) or "it breaks off") from error
    if missing := sorted(wanted - set(held)):
        raise _wrong(path, f"it holds no {', '.join(missing)}")
    first, second = (_split([held[name] for name in names], label_bytes, path) for names in (train, test))
    return Splits(first, second)


def _split(contents: list[bytes], label_bytes: int, path: Path) -> Split:
    record = label_bytes + PIXELS
    content = b"".join(contents)
    if not content or len(content) % record:
        raise _wrong(path, f"{len(content):,} bytes are not records of {record:,}")
    rows = np.frombuffer(content, np.uint8).reshape(-1, record)
    images_NCHW = rows[:, label_bytes:].reshape(-1, 3, 32, 32)
    return Split(np.ascontiguousarray(images_NCHW), rows[:, label_bytes - 1].astype(np.int64))


def _wrong(path: Path, reason: str) -> UserError:
    return UserError(f"{path} is not the tar file that its name promises: {reason}.", "Delete it and fetch it anew.")
