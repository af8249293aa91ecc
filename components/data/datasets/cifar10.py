"""CIFAR-10: photographs of 10 kinds, 50,000 to train and 10,000 to test, 32x32 in colour; 170 MB to download.

A. Krizhevsky: Learning Multiple Layers of Features from Tiny Images, 2009. Some 3 % of the test images are nearly the
same as training images (B. Barz, J. Denzler: ciFAIR, arXiv:1902.00423). Licence: none is stated.
"""

from pathlib import Path

from torchmill.components.data.downloads.published_file import PublishedFile
from torchmill.components.data.formats import cifar
from torchmill.components.data.splits import Splits

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
SOURCE = "https://www.cs.toronto.edu/~kriz/cifar.html"

# The authors publish an MD5 alone; the SHA-256 of the same file is TensorFlow Datasets'.
FILE = PublishedFile(
    "cifar10",
    "cifar-10-binary.tar.gz",
    185_000_000,
    gzip_sha256="c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd",
)

FOLDER = "cifar-10-batches-bin"


def load(downloads: Path) -> Splits:
    train = [f"{FOLDER}/data_batch_{number}.bin" for number in range(1, 6)]
    return cifar.load(FILE, downloads, train, [f"{FOLDER}/test_batch.bin"], label_bytes=1)
