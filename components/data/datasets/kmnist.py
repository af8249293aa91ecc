"""Kuzushiji-MNIST: cursive Japanese, 60,000 to train and 10,000 to test, 28x28 grey; 21.2 MB to download.

T. Clanuwat et al.: Deep Learning for Classical Japanese Literature, arXiv:1812.01718; made by
ROIS-DS Center for Open Data in the Humanities (CODH), doi:10.20676/00000341. Licence: CC BY-SA 4.0.
"""

from pathlib import Path

from torchmill.components.data.formats import idx
from torchmill.components.data.splits import Splits

# One hiragana per row of the syllabary, in Latin letters: the fonts that plots come with have no kana.
CLASSES = ("o", "ki", "su", "tsu", "na", "ha", "ma", "ya", "re", "wo")
SOURCE = "http://codh.rois.ac.jp/kmnist/"

MIRRORS = (
    "https://codh.rois.ac.jp/kmnist/dataset/kmnist/",
    "http://codh.rois.ac.jp/kmnist/dataset/kmnist/",
)
# Digests of the .gz files: nobody has published those of their contents.
FILES = idx.mnist_like(
    "kmnist",
    "gzip_sha256",
    of=(
        "51467d22d8cc72929e2a028a0428f2086b092bb31cfb79c69cc0a90ce135fde4",
        "e38f9ebcd0f3ebcdec7fc8eabdcdaef93bb0df8ea12bee65224341c8183d8e17",
        "edd7a857845ad6bb1d0ba43fe7e794d164fe2dce499a1694695a792adfac43c5",
        "20bb9a0ef54c7db3efc55a92eef5582c109615df22683c380526788f98e42a1c",
    ),
)


def load(downloads: Path) -> Splits:
    return idx.load(FILES, MIRRORS, downloads)
