"""Names: 18,827 surnames in 18 languages, letter by letter; 0.1 MB to download.

Gathered by Sean Robertson for PyTorch's tutorial on character-level networks. Languages differ in size, and some names
belong to several of them: no network gets all of them right. Licence: none is stated.
"""

import contextlib
from pathlib import Path

import numpy as np

from torchmill.components.data.downloads.download import download
from torchmill.components.data.downloads.published_file import PublishedFile
from torchmill.components.data.formats.texts import cut_texts, encode_splits
from torchmill.components.data.splits import Splits
from torchmill.components.encoding.vocabulary import normalized
from torchmill.components.reading.texts import lines, read_text

SOURCE = "https://docs.pytorch.org/tutorials/intermediate/char_rnn_classification_tutorial.html"

MIRRORS = ("https://raw.githubusercontent.com/spro/practical-pytorch/master/data/names/",)
"""Mirrors. Copies of the files vary, mostly by duplicates; only these digests are accepted."""

FILES = {  # size in bytes, SHA-256
    "Arabic": (5270, "cad93b6bc21add6c364b3733f5936ce693207ba387c690078ac813a876036fb8"),
    "Chinese": (1247, "49263ef55a8cb1740e841d65cad8214b2f9b5b869bc534c811746422496fa91e"),
    "Czech": (3919, "145bbbd6d0816578f03388e92c264d39ef1c60df920b081d371fa5c5cc055a8e"),
    "Dutch": (2351, "924f32b635170eae561f84538632138fc07d4c8bbd70ba3fb980de1ecc4d2af3"),
    "English": (27146, "dfe263cbcf0cdd64b1534ca713a91810540e4c400df6373cd8004cbc6d8f1c4b"),
    "French": (2178, "81e65b36c60ed5b89a17422f6edcadbb89546f38ad69e960e64e7ba682012a95"),
    "German": (5610, "7449cd590b97a733e18d613a4155decd77ec35dc5f8aadd7a82204dce4f051db"),
    "Greek": (1890, "d55ba1ec8c72d10bccf189bd3feedb27bdb46aba220ee332e98752999b53a390"),
    "Irish": (1852, "bf34c9f5507e83137ec25411e41f4664a19754776faf1e48bf0b091031acd758"),
    "Italian": (5657, "f88414c27d0606a11a678b4859277828c2565d6cc4d9ee932deef6e94f3b35e4"),
    "Japanese": (7622, "e0e717e114fec3e7eade4d9dabe0067c475f43147e36a22b47902ee76ad9e67f"),
    "Korean": (423, "cd54221ccb362a6cba4c78828838cf3268a0e59744767a37cf6ec4b74036b136"),
    "Polish": (1165, "45bab898af2f60ed3a728bbf6980e28821011a7caa53227553b5785903a40826"),
    "Portuguese": (554, "50a8735f41f4f73757c8ce5b16cb0275cd86b2b214bcbc8c9805f508cb131c53"),
    "Russian": (85605, "43b3e64ce351f77f1ac9e0cdf7566012d127f4371875fd25208845b5c9d6f7c3"),
    "Scottish": (1169, "b15bb28148b190ba6e34eccda8f9cfaa724bd5060bb03c121dae26ec74975f3e"),
    "Spanish": (2284, "1bcb462ed3316756a85781d68232bddae04498fdddd5d9219c53fd1fbdeba7a7"),
    "Vietnamese": (336, "77c6f7cb5ef9383d40eccd33955a371cbbde45ffeffac8d554e8eb15ad6b938c"),
}
CLASSES = tuple(FILES)

MAX_LENGTH = 32


def load(downloads: Path) -> Splits:
    """Cut 10 % of each language off for test and 10 % for validation; a name is never in two splits."""
    texts, labels = [], []
    for label, (language, (size, sha256)) in enumerate(FILES.items()):
        file = PublishedFile("names", f"{language}.txt", size, content_sha256=sha256, packed=False)
        download(file, downloads / file.name, MIRRORS, show=lambda _: contextlib.nullcontext(lambda *_: None))
        names = {normalized(line) for line in lines(read_text(downloads / file.name))}
        texts += sorted(names - {""})
        labels += [label] * len(names - {""})
    parts = cut_texts(texts, np.array(labels), test_fraction=0.1, validation_fraction=0.1)
    return encode_splits(parts, CLASSES, "characters", lower_case=False, max_length=MAX_LENGTH)
