"""The four gzip files in "idx" format of MNIST and of the data sets that follow it."""

import gzip
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from torchmill.components.data.downloads.download import download
from torchmill.components.data.downloads.published_file import PublishedFile
from torchmill.components.data.splits import Split, Splits
from torchmill.components.errors import UserError
from torchmill.components.files import writing

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class IdxFiles:
    """The files of a data set."""

    train_images: PublishedFile
    train_labels: PublishedFile
    test_images: PublishedFile
    test_labels: PublishedFile


def mnist_like(dataset: str, digest: str, *, of: tuple[str, str, str, str]) -> IdxFiles:
    """Return the four files of a data set with MNIST's sizes: 60,000 and 10,000 images, 28 by 28.

    Args:
        digest: ``content_sha256`` if the digests are of the contents, ``gzip_sha256`` if of the compressed files.
        of: digests of training images and labels, then of test images and labels.
    """
    names = ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1")
    sizes = (16 + 60_000 * 28 * 28, 8 + 60_000, 16 + 10_000 * 28 * 28, 8 + 10_000)
    return IdxFiles(
        *(
            PublishedFile(dataset, f"{name}-ubyte.gz", size, **{digest: sha256})  # ty: ignore[invalid-argument-type]
            for name, size, sha256 in zip(names, sizes, of, strict=True)
        )
    )


def load(files: IdxFiles, mirrors: Sequence[str], downloads: Path) -> Splits:
    """Download missing and damaged files, and read all four.

    Raises:
        UserError: as ``download``, or a file is not in idx format.
    """
    for file in (files.train_images, files.train_labels, files.test_images, files.test_labels):
        download(file, downloads / file.name, mirrors)
    return Splits(
        Split(_images(files.train_images, downloads), _labels(files.train_labels, downloads)),
        Split(_images(files.test_images, downloads), _labels(files.test_labels, downloads)),
    )


def _images(file: PublishedFile, downloads: Path) -> np.ndarray:
    """Read images as uint8 NCHW with one channel."""
    images_NHW = _parsed(file, downloads, "read_image_file")
    return images_NHW[:, None]


def _labels(file: PublishedFile, downloads: Path) -> np.ndarray:
    return _parsed(file, downloads, "read_label_file")


def _parsed(file: PublishedFile, downloads: Path, reader: str) -> np.ndarray:
    # Here, since torchvision takes seconds, and prepared data never needs it.
    from torchvision.datasets import mnist

    unpacked = downloads / f".{file.name}.unpacked.tmp"
    try:
        with (
            writing(downloads, file.content_bytes),
            gzip.open(downloads / file.name) as contents,
            unpacked.open("wb") as plain,
        ):
            shutil.copyfileobj(contents, plain, 1 << 20)
        tensor: torch.Tensor = getattr(mnist, reader)(str(unpacked))
        return np.ascontiguousarray(tensor.numpy())
    except (AssertionError, ArithmeticError, LookupError, RuntimeError, TypeError, ValueError) as error:
        reason = str(error) or "its header is wrong"
        raise UserError(
            f"{downloads / file.name} is not the idx file that its name promises: {reason}.",
            "Delete it and fetch it anew, or tell who publishes it.",
        ) from error
    finally:
        unpacked.unlink(missing_ok=True)
