"""Labelled texts on their way into a data set of tokens."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from torchmill.components import tasks
from torchmill.components.data.encoding.vocabulary import Level, Vocabulary, normalized
from torchmill.components.data.splits import Split, Splits, cut
from torchmill.components.errors import UserError


class Texts(NamedTuple):
    """Texts of a split, and what belongs to them."""

    texts: Sequence[str]
    labels: np.ndarray
    origins: Sequence[str] = ()
    """Where each of them comes from."""

    def take(self, indices: np.ndarray) -> "Texts":
        """Give some of them."""
        texts, origins = ([held[one] for one in indices] if held else () for held in (self.texts, self.origins))
        return Texts(texts, self.labels[indices], origins)


def cut_texts(
    texts: Sequence[str], labels: np.ndarray, *, test_fraction: float, validation_fraction: float
) -> dict[str, Texts]:
    """Cut texts into train, validation and test; what reads the same, but for its case, stays together."""
    same = [normalized(text).casefold() for text in texts]
    train, validation, test = cut(labels, (validation_fraction, test_fraction), groups=same)
    parts = {"train": train, "validation": validation, "test": test}
    return {split: Texts(texts, labels).take(indices) for split, indices in parts.items()}


def encode_splits(
    parts: Mapping[str, Texts],
    classes: tuple[str, ...],
    level: Level,
    *,
    lower_case: bool,
    max_length: int,
    max_size: int = 50_000,
    task: str = tasks.DEFAULT,
    source: str = "",
) -> Splits:
    """Make token ids of train, validation and test, by a vocabulary that knows the training texts alone."""
    vocabulary = Vocabulary.of(
        parts["train"].texts, level, lower_case=lower_case, max_length=max_length, max_size=max_size
    )
    encoded = {split: Split(vocabulary.encode(part.texts), part.labels, part.origins) for split, part in parts.items()}
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
    train = parts["train"]
    same = [normalized(text).casefold() for text in train.texts]
    kept, *taken = cut(train.labels, [fractions[split] for split in missing], groups=same)
    for split, indices in zip(missing, taken, strict=True):
        if not len(indices):
            distinct = len(set(same))
            raise UserError(
                f"{place} has too few texts to cut any off for {split}"
                + (
                    f": of its {len(same):,}, {distinct:,} are distinct, and equal texts stay together."
                    if distinct < len(same)
                    else "."
                ),
                "Two or three different ones of a class at least.",
            )
    indices = dict(zip(("train", *missing), (kept, *taken), strict=True))
    return {**parts, **{split: train.take(which) for split, which in indices.items()}}


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
