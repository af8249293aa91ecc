"""MNIST: handwritten digits, 60,000 to train and 10,000 to test, 28x28 grey; 11.6 MB to download.

Y. LeCun, C. Cortes, C. J. C. Burges, http://yann.lecun.com/exdb/mnist/. Licence: none is stated
by its authors; commonly passed on under CC BY-SA 3.0.
"""

from pathlib import Path

from torchmill.components.data.formats import idx
from torchmill.components.data.splits import Splits

CLASSES = ("0", "1", "2", "3", "4", "5", "6", "7", "8", "9")
SOURCE = "http://yann.lecun.com/exdb/mnist/"

MIRRORS = (
    "https://ossci-datasets.s3.amazonaws.com/mnist/",
    "https://storage.googleapis.com/cvdf-datasets/mnist/",
    "http://yann.lecun.com/exdb/mnist/",
)
FILES = idx.mnist_like(
    "mnist",
    "content_sha256",
    of=(
        "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
        "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
        "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
        "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
    ),
)


def load(downloads: Path) -> Splits:
    return idx.load(FILES, MIRRORS, downloads)
