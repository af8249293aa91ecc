"""Labelled texts, between their source and a data set of tokens."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Literal, NamedTuple

import numpy as np

from torchmill.components import tasks
from torchmill.components.data.content import text_digests
from torchmill.components.data.splits import Split, Splits, cut
from torchmill.components.encoding.vocabulary import PADDING, UNKNOWN, Level, Vocabulary
from torchmill.components.errors import UserError
from torchmill.components.reading.rules import ReadingRules
from torchmill.components.wording import percent


class Texts(NamedTuple):
    """The texts of a split, with their labels and origins."""

    texts: Sequence[str]
    labels: np.ndarray
    origins: Sequence[str] = ()
    """Origin of each text; may be empty."""

    def take(self, indices: np.ndarray) -> "Texts":
        """Return some of the texts."""
        origins = [self.origins[index] for index in indices] if self.origins else ()
        return Texts([self.texts[index] for index in indices], self.labels[indices], origins)


def cut_texts(
    texts: Sequence[str], labels: np.ndarray, *, test_fraction: float, validation_fraction: float
) -> dict[str, Texts]:
    """Cut texts into train, validation and test; texts that differ by case alone stay together."""
    parts = cut(labels, text_digests(texts), {"test": test_fraction, "validation": validation_fraction})
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
    text_per: Literal["line", "file"] = "line",
) -> Splits:
    """Encode train, validation and test as token ids, with a vocabulary of the training texts."""
    vocabulary = Vocabulary.of(
        parts["train"].texts, level, lower_case=lower_case, max_length=max_length, max_size=max_size
    )
    notes = _notes(vocabulary, parts)
    encoded = {
        split: Split(vocabulary.encode(part.texts), part.labels, part.origins, text_digests(part.texts))
        for split, part in parts.items()
    }
    return Splits(
        train=encoded["train"],
        validation=encoded["validation"],
        test=encoded["test"],
        classes=classes,
        task=task,
        vocabulary=vocabulary,
        source=source,
        rules=ReadingRules(text_per=text_per),
        notes=notes,
    )


def _notes(vocabulary: Vocabulary, parts: Mapping[str, Texts]) -> tuple[str, ...]:
    """Return in words how many texts are cut, and how much of the test texts the vocabulary doesn't have."""
    whole = replace(vocabulary, max_length=vocabulary.max_length + 1)
    encoded = {split: whole.encode(part.texts) for split, part in parts.items()}
    cut = sum(int((tokens[:, vocabulary.max_length :] != PADDING).any(1).sum()) for tokens in encoded.values())
    total = sum(map(len, encoded.values()))
    tokens = encoded["test"][:, : vocabulary.max_length]
    unknown = float((tokens == UNKNOWN).sum() / max(1, (tokens != PADDING).sum()))
    return (
        f"texts become {vocabulary.cut}; {percent(cut / total)} of {total:,} are cut after {vocabulary.max_length:,} "
        f"(max_length), {percent(unknown)} of the test texts' {vocabulary.level} are unknown",
    )


def complete(
    parts: Mapping[str, Texts], place: str, *, test_fraction: float, validation_fraction: float
) -> dict[str, Texts]:
    """Cut missing validation and test splits from train; equal texts stay together.

    Raises:
        UserError: there are too few texts to cut.
    """
    fractions = {"test": test_fraction, "validation": validation_fraction}
    missing = {split: fraction for split, fraction in fractions.items() if split not in parts}
    if not missing:
        return dict(parts)
    train = parts["train"]
    groups = text_digests(train.texts)
    rows = cut(train.labels, groups, missing)
    for split in missing:
        if not len(rows[split]):
            distinct = len(np.unique(groups))
            raise UserError(
                f"{place} has too few texts to cut any off for {split}"
                + (
                    f": of its {len(groups):,}, {distinct:,} are distinct, and equal texts stay together."
                    if distinct < len(groups)
                    else "."
                ),
                "Add texts until each class has two or three different ones.",
            )
    return {**parts, **{split: train.take(indices) for split, indices in rows.items()}}


def usual_level(texts: Sequence[str]) -> Level:
    """Return "characters" if half of the texts have at most two words, else "words"."""
    return "characters" if float(np.median([len(text.split()) for text in texts])) <= 2 else "words"
