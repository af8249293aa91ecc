"""Words of texts: how texts are cut into them, and the ids that they become."""

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from torchmill.components.batches.field_refs import TextForm

EDGE = r"[^\w\s]"
"""Punctuation mark or other sign."""

PART = re.compile(rf"(?P<before>(?:{EDGE})*)(?P<core>.*?)(?P<behind>(?:{EDGE})*)", re.DOTALL)
GLUED = re.compile(rf".*\w{EDGE}", re.DOTALL)
ALONE = re.compile(EDGE)


class Pieces(NamedTuple):
    """A text as ids."""

    ids: list[int]
    firsts: list[int]
    """Place of each word's first id; -1 of a word that has none. Empty of whole texts."""
    is_cut: bool
    """True if the end of the text was cut off."""


def joined(words: Sequence[str]) -> tuple[str, list[int]]:
    """Return the text of words, between spaces, and the place of each word's first character."""
    starts, length = [], 0
    for word in words:
        starts.append(length)
        length += len(word) + 1
    return " ".join(words), starts


MARKS = {"Ġ": " ", "▁": " ", "</w>": " ", "Ċ": "\n"}
"""Marks of subwords that begin or end words, with their meaning."""

CONTINUES = "##"
"""Beginning of subwords that continue a word, as BERT has it."""


def spelled(tokens: Sequence[str]) -> str:
    """Return the text of tokens: characters, words or subwords with the usual marks.

    Example:
        >>> spelled(["sub", "##words", "are"]), spelled(["Ġsub", "words"]), spelled(["a", "b"])
        ('subwords are', ' subwords', 'ab')
    """
    if any(mark in token for token in tokens for mark in MARKS):
        text = "".join(tokens)
        for mark, meaning in MARKS.items():
            text = text.replace(mark, meaning)
        return text
    if all(len(token) == 1 for token in tokens):
        return "".join(tokens)
    return " ".join(tokens).replace(f" {CONTINUES}", "")


def form_of(texts: Iterable[Sequence[str]]) -> TextForm:
    """Return how texts must have been cut into words: with punctuation apart, or at spaces alone."""
    counts: Counter[str] = Counter()
    for words in texts:
        for word in words:
            counts["apart"] += bool(ALONE.fullmatch(word))
            counts["glued"] += bool(GLUED.fullmatch(word))
    return "spaces" if counts["glued"] > counts["apart"] else "words"


def places_of_words(text: str, form: TextForm) -> list[tuple[int, int]]:
    """Return first character and end of each word of a text.

    Example:
        >>> text = "(Anna met J.-P. in Rome.)"
        >>> [text[start:end] for start, end in places_of_words(text, "words")]
        ['(', 'Anna', 'met', 'J.-P', '.', 'in', 'Rome', '.', ')']
    """
    places = []
    for chunk in re.finditer(r"\S+", text):
        if form == "spaces":
            places.append(chunk.span())
            continue
        part = PART.fullmatch(chunk.group())
        assert part
        start, (first, last) = chunk.start(), part.span("core")
        places += [(start + at, start + at + 1) for at in range(first)]
        places += [(start + first, start + last)] if last > first else []
        places += [(start + at, start + at + 1) for at in range(last, len(chunk.group()))]
    return places
