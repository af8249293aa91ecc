import gzip
import hashlib
import struct
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from torchmill.components.data.downloads.published_file import PublishedFile
from torchmill.components.data.formats import idx
from torchmill.components.errors import UserError

IMAGES = np.arange(6 * 4 * 5, dtype=np.uint8).reshape(6, 4, 5)
LABELS = np.arange(6, dtype=np.uint8) % 3


def packed(array: np.ndarray, type_code: int = 8, shape: tuple[int, ...] | None = None) -> bytes:
    shape = shape or array.shape
    header = struct.pack(f">BBBB{len(shape)}I", 0, 0, type_code, len(shape), *shape)
    return header + array.tobytes()


def publish(folder: Path, name: str, content: bytes) -> PublishedFile:
    """Write a file to the mirror in ``folder``, and return its description."""
    (folder / name).write_bytes(gzip.compress(content))
    return PublishedFile("toy", name, len(content), content_sha256=hashlib.sha256(content).hexdigest())


@pytest.fixture
def mirror(tmp_path):
    (tmp_path / "mirror").mkdir()
    return tmp_path / "mirror"


@pytest.fixture
def files(mirror):
    return idx.IdxFiles(
        publish(mirror, "train-images.gz", packed(IMAGES)),
        publish(mirror, "train-labels.gz", packed(LABELS)),
        publish(mirror, "test-images.gz", packed(IMAGES[:2])),
        publish(mirror, "test-labels.gz", packed(LABELS[:2])),
    )


def test_four_files_become_arrays(files, mirror, tmp_path):
    splits = idx.load(files, [mirror.as_uri()], tmp_path / "downloads")
    assert (splits.train.inputs == IMAGES[:, None]).all()
    assert (splits.test.inputs == IMAGES[:2, None]).all()
    assert splits.train.inputs.dtype == np.uint8
    assert splits.train.labels.tolist() == LABELS.tolist()
    assert splits.test.labels.dtype == np.int64
    assert not [path for path in (tmp_path / "downloads").iterdir() if path.name.endswith(".tmp")]


@pytest.mark.parametrize(
    "content",
    [
        packed(IMAGES, shape=(7, 4, 5)),
        packed(IMAGES, shape=(5, 4, 5)),
        packed(IMAGES, type_code=9),
        packed(IMAGES, type_code=99),
        packed(LABELS),
        packed(IMAGES)[:10],
        b"",
    ],
    ids=["too few", "too many", "signed", "no such type", "labels", "half a header", "empty"],
)
def test_a_file_that_is_as_published_and_yet_malformed_is_refused_by_name(files, mirror, tmp_path, content):
    files = replace(files, train_images=publish(mirror, "bad-images.gz", content))
    with pytest.raises(UserError, match=r"bad-images\.gz is not the idx file"):
        idx.load(files, [mirror.as_uri()], tmp_path / "downloads")
    assert not [path for path in (tmp_path / "downloads").iterdir() if path.name.endswith(".tmp")]
