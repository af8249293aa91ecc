"""Text as token ids: characters or words of the training split."""

import json
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, Literal

import numpy as np
from pydantic import Field

from torchmill.components.encoding.words import Pieces
from torchmill.components.state_files import parse_json

FILE = "vocabulary.json"
"""Name of the file in a data set's folder."""

PADDING = 0
"""Token id that pads a sequence."""

UNKNOWN = 1
"""Token id for anything that the training split lacks."""

SPECIAL = ("<padding>", "<unknown>")
"""Tokens with the ids 0 and 1."""

Level = Literal["characters", "words"]

WORD = re.compile(r"\w+|[^\w\s]")


@dataclass(frozen=True)
class Vocabulary:
    """Tokens with their ids, and the rules that cut a text into tokens."""

    level: Level
    lower_case: bool
    max_length: Annotated[int, Field(ge=1, lt=2**31)]
    """Longest text in tokens; more are cut off."""
    tokens: Annotated[tuple[str, ...], Field(min_length=len(SPECIAL))]
    """Tokens in the order of their ids: padding, unknown, then the most frequent first."""
    keeps_spaces: bool = False
    """True if line feeds and repeated spaces are kept; only of characters."""

    @classmethod
    def of(
        cls, texts: Iterable[str], level: Level, *, lower_case: bool, max_length: int, max_size: int = 50_000
    ) -> "Vocabulary":
        """Return the vocabulary of the training texts, with their ``max_size`` most frequent tokens."""
        counts: Counter[str] = Counter()
        for text in texts:
            counts.update(tokenize(text, level, lower_case))
        frequent = sorted(counts, key=lambda token: (-counts[token], token))[: max_size - len(SPECIAL)]
        return cls(level, lower_case, max_length, (*SPECIAL, *frequent))

    @cached_property
    def ids(self) -> dict[str, int]:
        """Ids of the tokens."""
        return {token: number for number, token in enumerate(self.tokens)}

    @property
    def padding(self) -> int:
        """Id that pads texts."""
        return PADDING

    def pieces(self, words: Sequence[str], most: int | None) -> Pieces:
        """Return the ids of words, an id for each.

        Args:
            most: largest number of ids; the end of a longer text is cut off.
        """
        ids = [self.ids.get(word.lower() if self.lower_case else word, UNKNOWN) for word in words[:most]]
        firsts = [*range(len(ids)), *[-1] * (len(words) - len(ids))]
        return Pieces(ids or [UNKNOWN], firsts, len(words) > len(ids))

    def text_pieces(self, text: str, most: int | None) -> Pieces:
        """Return the ids of a text."""
        tokens = tokenize(text, self.level, self.lower_case, self.keeps_spaces)
        return self.pieces(tokens, most)._replace(firsts=[])

    def stream(self, text: str) -> list[int]:
        """Return the ids of a long text."""
        return self.text_pieces(text, None).ids if text else []

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        """Return token ids, int32 (texts, longest text), with padding at the end.

        An empty text becomes one unknown token: attention to padding alone is NaN.
        """
        rows = [
            [self.ids.get(token, UNKNOWN) for token in tokenize(text, self.level, self.lower_case)[: self.max_length]]
            for text in texts
        ]
        encoded = np.full((len(rows), max([1, *map(len, rows)])), PADDING, np.int32)
        for number, row in enumerate(rows):
            encoded[number, : max(1, len(row))] = row or [UNKNOWN]
        return encoded

    def translation(self, source: "Vocabulary") -> Callable[[np.ndarray], np.ndarray]:
        """Return a function from ids of the ``source`` vocabulary, (N, L), to ids of this one, or ``UNKNOWN``."""
        ids = [self.ids.get(token, UNKNOWN) for token in source.tokens[len(SPECIAL) :]]
        table = np.array([*range(len(SPECIAL)), *ids], np.int32)
        return lambda tokens: table[tokens[:, : self.max_length]]

    def decode(self, ids: Iterable[int]) -> str:
        """Return the text of token ids."""
        tokens = (self.tokens[number] for number in ids if number != PADDING)
        return ("" if self.level == "characters" else " ").join(tokens)

    @property
    def cut(self) -> str:
        """The rules that cut a text into tokens, in words."""
        return f"{self.level} in {'lower' if self.lower_case else 'upper and lower'} case"

    def tokenization_as_json(self) -> str:
        """Return the rules that make tokens of a text as JSON, for those who write their own encoder."""
        pattern = WORD.pattern if self.level == "words" else "."
        rules = {"normalization": "NFC", "spaces": "single", "lower_case": self.lower_case, "pattern": pattern}
        return json.dumps({**rules, "max_length": self.max_length, "padding": PADDING, "unknown": UNKNOWN})

    def as_json(self) -> str:
        """Return the vocabulary as JSON."""
        rules = {"level": self.level, "lower_case": self.lower_case, "max_length": self.max_length}
        rules |= {"keeps_spaces": True} if self.keeps_spaces else {}
        return json.dumps({**rules, "tokens": self.tokens}, ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str) -> "Vocabulary":
        """Parse the output of ``as_json``.

        Raises:
            Damaged: the text is no such output.
        """
        return parse_json(text, cls)


def normalized(text: str) -> str:
    """Return a text with composed characters (NFC) and single spaces."""
    return " ".join(unicodedata.normalize("NFC", text).split())


def tokenize(text: str, level: Level, lower_case: bool, keeps_spaces: bool = False) -> list[str]:
    """Return the tokens of a text."""
    text = unicodedata.normalize("NFC", text) if keeps_spaces else normalized(text)
    text = text.lower() if lower_case else text
    return list(text) if level == "characters" else WORD.findall(text)
