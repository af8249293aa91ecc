"""Text as token ids: characters or words, known from the training split alone."""

import json
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np

from torchmill.components.refs import PADDING

UNKNOWN = 1
"""The token for whatever the training split does not hold."""
SPECIAL = ("<padding>", "<unknown>")

Level = Literal["characters", "words"]

WORD = re.compile(r"\w+|[^\w\s]")


@dataclass(frozen=True)
class Vocabulary:
    """The tokens by id, and how a text is cut into them."""

    level: Level
    lower_case: bool
    max_length: int
    """Tokens of a text that count; what comes after them is cut off."""
    tokens: tuple[str, ...]
    """By id, from 0: padding, unknown, then the most frequent first."""

    @classmethod
    def of(
        cls, texts: Iterable[str], level: Level, *, lower_case: bool, max_length: int, max_size: int = 50_000
    ) -> "Vocabulary":
        """Gather the tokens of the training texts, the most frequent ``max_size`` of them."""
        counts: Counter[str] = Counter()
        for text in texts:
            counts.update(pieces(text, level, lower_case))
        known = sorted(counts, key=lambda token: (-counts[token], token))[: max_size - len(SPECIAL)]
        return cls(level, lower_case, max_length, (*SPECIAL, *known))

    @cached_property
    def ids(self) -> dict[str, int]:
        return {token: number for number, token in enumerate(self.tokens)}

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        """Give token ids, int32, (texts, the longest of them), filled up with padding. An empty text is one unknown.

        A network sees at least one token that is no padding: what attends to nothing gives no number.
        """
        rows = [
            [self.ids.get(token, UNKNOWN) for token in pieces(text, self.level, self.lower_case)[: self.max_length]]
            for text in texts
        ]
        encoded = np.full((len(rows), max([1, *map(len, rows)])), PADDING, np.int32)
        for number, row in enumerate(rows):
            encoded[number, : max(1, len(row))] = row or [UNKNOWN]
        return encoded

    def translation(self, other: "Vocabulary") -> Callable[[np.ndarray], np.ndarray]:
        """Say how token ids by an ``other`` vocabulary, (N, L), become ids by this one; what it does not know is
        unknown."""
        known = [self.ids.get(token, UNKNOWN) for token in other.tokens[len(SPECIAL) :]]
        table = np.array([*range(len(SPECIAL)), *known], np.int32)
        return lambda tokens: table[tokens[:, : self.max_length]]

    def decode(self, ids: Iterable[int]) -> str:
        """Give the text of token ids, for people."""
        known = (self.tokens[number] for number in ids if number != PADDING)
        return ("" if self.level == "characters" else " ").join(known)

    @property
    def cut(self) -> str:
        """What texts are cut into, in words."""
        return f"{self.level} in {'lower' if self.lower_case else 'upper and lower'} case"

    def as_json(self) -> str:
        described = {"level": self.level, "lower_case": self.lower_case, "max_length": self.max_length}
        return json.dumps({**described, "tokens": self.tokens}, ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str) -> "Vocabulary":
        held: dict[str, Any] = json.loads(text)
        held["tokens"] = tuple(held["tokens"])
        return cls(**held)


def normalized(text: str) -> str:
    """One of the ways to write the same text: composed characters (NFC), single spaces."""
    return " ".join(unicodedata.normalize("NFC", text).split())


def pieces(text: str, level: Level, lower_case: bool) -> list[str]:
    """Cut a text into its tokens."""
    text = normalized(text)
    text = text.lower() if lower_case else text
    return list(text) if level == "characters" else WORD.findall(text)
