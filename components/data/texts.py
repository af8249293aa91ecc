"""Labelled texts on their way into a data set of tokens."""

from collections.abc import Mapping, Sequence

import numpy as np

from components.data.splits import Split, Splits, cut
from components.data.vocabulary import Level, Vocabulary, normalized
from components.errors import UserError
from components.refs import Task

Texts = tuple[Sequence[str], np.ndarray]
"""Texts and their labels."""


def cut_texts(
    texts: Sequence[str], labels: np.ndarray, *, test_fraction: float, validation_fraction: float
) -> dict[str, Texts]:
    """Cut texts into train, validation and test; what reads the same, but for its case, stays together."""
    same = [normalized(text).casefold() for text in texts]
    train, validation, test = cut(labels, (validation_fraction, test_fraction), groups=same)
    parts = {"train": train, "validation": validation, "test": test}
    return {split: ([texts[index] for index in indices], labels[indices]) for split, indices in parts.items()}


def encode_splits(
    parts: Mapping[str, Texts],
    classes: tuple[str, ...],
    level: Level,
    *,
    lower_case: bool,
    max_length: int,
    max_size: int = 50_000,
    task: Task = "classification",
    source: str = "",
) -> Splits:
    """Make token ids of train, validation and test, by a vocabulary that knows the training texts alone."""
    vocabulary = Vocabulary.of(
        parts["train"][0], level, lower_case=lower_case, max_length=max_length, max_size=max_size
    )
    encoded = {split: Split(vocabulary.encode(texts), labels) for split, (texts, labels) in parts.items()}
    return Splits(
        train=encoded["train"],
        validation=encoded["validation"],
        test=encoded["test"],
        classes=classes,
        task=task,
        vocabulary=vocabulary,
        source=source,
    )


def complete(
    parts: Mapping[str, Texts], place: str, *, test_fraction: float, validation_fraction: float
) -> dict[str, Texts]:
    """Cut what is missing of validation and test from train; equal texts stay together.

    Raises:
        UserError: there are too few texts for that.
    """
    fractions = {"validation": validation_fraction, "test": test_fraction}
    missing = [split for split in fractions if split not in parts]
    if not missing:
        return dict(parts)
    texts, labels = parts["train"]
    same = [normalized(text).casefold() for text in texts]
    kept, *taken = cut(labels, [fractions[split] for split in missing], groups=same)
    for split, indices in zip(missing, taken, strict=True):
        if not len(indices):
            raise UserError(
                f"{place} has too few texts to cut any off for {split}.", "Two or three of a class at least."
            )
    indices = dict(zip(("train", *missing), (kept, *taken), strict=True))
    return {**parts, **{split: ([texts[one] for one in which], labels[which]) for split, which in indices.items()}}


def usual_level(texts: Sequence[str]) -> Level:
    """Characters where half of the texts have at most two words, else words."""
    return "characters" if float(np.median([len(text.split()) for text in texts])) <= 2 else "words"


def decoded(content: bytes, file: object) -> str:
    """Give the text of a file, in UTF-8 with or without a byte order mark.

    Raises:
        UserError: it is in another encoding.
    """
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        utf16 = content[:2] in (b"\xff\xfe", b"\xfe\xff")
        encoding = "UTF-16" if utf16 else "CP1252"
        raise UserError(
            f"{file} line {line} is not UTF-8: byte {error.start:,} of the file is 0x{content[error.start]:02x}.",
            f"Convert it, as by: iconv -f {encoding} -t UTF-8.",
        ) from None
