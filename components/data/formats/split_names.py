"""Splits that names of files and folders tell: train, validation and test, as people call them."""

from collections.abc import Iterable

from torchmill.components.data.formats.class_folders import SPLIT_NAMES

MORE = {"validation": ("dev", "testa"), "test": ("testb",)}
"""Further names, which files alone have."""

SPLIT_OF = {name: split for split, names in SPLIT_NAMES.items() for name in (*names, *MORE.get(split, ()))}


def split_of(name: str) -> str:
    """Return the split that a name is; empty if it is none.

    Example:
        >>> split_of("valid")
        'validation'
    """
    return SPLIT_OF.get(name.lower(), "")


def split_and_rest(name: str) -> tuple[str, str]:
    """Return the split that a name begins or ends with, and the rest; an empty split if there is none.

    Example:
        >>> split_and_rest("x_train"), split_and_rest("test_image"), split_and_rest("image")
        (('train', 'x'), ('test', 'image'), ('', 'image'))
    """
    first, _, rest = name.partition("_")
    if rest and split_of(first):
        return split_of(first), rest
    rest, _, last = name.rpartition("_")
    return (split_of(last), rest) if rest and split_of(last) else ("", name)


def by_split(names: Iterable[str]) -> dict[str, dict[str, str]]:
    """Return names by split and by their rest; all as train unless each names its split."""
    names = list(names)
    parts: dict[str, dict[str, str]] = {}
    for name in names:
        split, rest = split_and_rest(name)
        parts.setdefault(split, {})[rest] = name
    return parts if "train" in parts and "" not in parts else {"train": {name: name for name in names}}
