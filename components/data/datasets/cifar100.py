"""CIFAR-100: photographs of 100 kinds, 50,000 to train and 10,000 to test, 32x32 in colour; 169 MB to download.

A. Krizhevsky: Learning Multiple Layers of Features from Tiny Images, 2009. Some 10 % of the test images are nearly the
same as training images (B. Barz, J. Denzler: ciFAIR, arXiv:1902.00423). Licence: none is stated.
"""

from pathlib import Path

from torchmill.components.data.downloads.published_file import PublishedFile
from torchmill.components.data.formats import cifar
from torchmill.components.data.splits import Splits

CLASSES = tuple(
    """
    apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus butterfly camel can
    castle caterpillar cattle chair chimpanzee clock cloud cockroach couch crab crocodile cup dinosaur dolphin
    elephant flatfish forest fox girl hamster house kangaroo keyboard lamp lawn_mower leopard lion lizard lobster
    man maple_tree motorcycle mountain mouse mushroom oak_tree orange orchid otter palm_tree pear pickup_truck
    pine_tree plain plate poppy porcupine possum rabbit raccoon ray road rocket rose sea seal shark shrew skunk
    skyscraper snail snake spider squirrel streetcar sunflower sweet_pepper table tank telephone television tiger
    tractor train trout tulip turtle wardrobe whale willow_tree wolf woman worm
    """.split()  # noqa: SIM905 (a hundred lines otherwise)
)
SOURCE = "https://www.cs.toronto.edu/~kriz/cifar.html"

# The authors publish an MD5 alone; the SHA-256 of the same file is TensorFlow Datasets'.
FILE = PublishedFile(
    "cifar100",
    "cifar-100-binary.tar.gz",
    185_000_000,
    gzip_sha256="58a81ae192c23a4be8b1804d68e518ed807d710a4eb253b1f2a199162a40d8ec",
)


def load(downloads: Path) -> Splits:
    """Read the 100 kinds. Before its kind, each record holds one of 20 groups."""
    return cifar.load(FILE, downloads, ["cifar-100-binary/train.bin"], ["cifar-100-binary/test.bin"], label_bytes=2)
