"""Fashion-MNIST: articles of clothing, 60,000 to train and 10,000 to test, 28x28 grey; 30.9 MB to download.

H. Xiao, K. Rasul, R. Vollgraf: Fashion-MNIST, arXiv:1708.07747. Licence: MIT, Zalando SE.
"""

from pathlib import Path

from torchmill.components.data.formats import idx
from torchmill.components.data.splits import Splits

CLASSES = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)
SOURCE = "https://github.com/zalandoresearch/fashion-mnist"

MIRRORS = (
    "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
    "https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion/",
)
# The authors publish the MD5 of the .gz files; these are digests of those files' contents.
FILES = idx.mnist_like(
    "fashion_mnist",
    "content_sha256",
    of=(
        "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
        "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
        "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
        "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
    ),
)


def load(downloads: Path) -> Splits:
    return idx.load(FILES, MIRRORS, downloads)
