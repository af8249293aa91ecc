"""The encoding of fields of texts: a vocabulary of the training texts, or a pretrained tokenizer."""

from collections.abc import Mapping
from pathlib import Path

from torchmill.components.encoding import tokenizer, vocabulary
from torchmill.components.encoding.tokenizer import Tokenizer
from torchmill.components.encoding.vocabulary import Vocabulary

TextEncoding = Vocabulary | Tokenizer
"""Both have ``tokens``, ``padding``, ``pieces`` of words and ``text_pieces`` of whole texts."""

FILES = (vocabulary.FILE, tokenizer.FILE)
"""Names of the files in a data set's folder."""


def as_files(encoding: TextEncoding | None) -> dict[str, str]:
    """Return the content of the file of an encoding by its name; empty without one."""
    if isinstance(encoding, Tokenizer):
        return {tokenizer.FILE: encoding.json}
    return {vocabulary.FILE: encoding.as_json()} if encoding else {}


def of_files(files: Mapping[str, str]) -> TextEncoding | None:
    """Return the encoding in files by their names; None without one.

    Raises:
        Damaged: a file is no vocabulary.
        UserError: the library tokenizers is not installed.
    """
    if tokenizer.FILE in files:
        encoding = Tokenizer(files[tokenizer.FILE])
        encoding.check("of this model")
        return encoding
    return Vocabulary.from_json(files[vocabulary.FILE]) if vocabulary.FILE in files else None


def read_files(folder: Path) -> dict[str, str]:
    """Return the files of the encoding in the folder of a data set by their names; empty without one."""
    return {name: (folder / name).read_text(encoding="utf-8") for name in FILES if (folder / name).is_file()}
