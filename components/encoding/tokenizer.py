"""Pretrained tokenizers of the library tokenizers, from a file such as ``tokenizer.json``."""

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torchmill.components.encoding.words import Pieces, joined
from torchmill.components.errors import UserError

if TYPE_CHECKING:
    import tokenizers

FILE = "tokenizer.json"
"""Name of the file in a data set's folder."""

PADDINGS = ("[PAD]", "<pad>", "<|padding|>", "<|pad|>", "<|endoftext|>", "</s>", "<eos>")
"""Tokens that pad texts, if the file sets no padding; the first one that the tokenizer has."""


@dataclass(frozen=True)
class Tokenizer:
    """Ids of subwords as a pretrained network knows them, with the special tokens that its file adds.

    Example:
        >>> tokenizer = Tokenizer.read(Path("tokenizer.json"))  # doctest: +SKIP
        >>> tokenizer.pieces(["Anna", "lives"], None).ids  # doctest: +SKIP
        [101, 4698, 3268, 102]
    """

    json: str
    """Content of the file."""

    @classmethod
    def read(cls, file: Path) -> "Tokenizer":
        """Read a file.

        Raises:
            UserError: the file is missing, is no tokenizer, or the library is not installed.
        """
        try:
            tokenizer = cls(file.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or "it is not UTF-8"
            remedy = f"Does it hold {FILE}?" if file.is_dir() else ""
            raise UserError(f"The tokenizer {file} can't be read: {reason}.", remedy) from None
        tokenizer.check(str(file))
        return tokenizer

    def check(self, place: str) -> None:
        """
        Raises:
            UserError: the content is no tokenizer, or the library is not installed.
        """
        if find_spec("tokenizers") is None:
            raise UserError(
                f"The tokenizer {place} needs the library tokenizers.",
                "Install it: pip install tokenizers, or torchmill with its extra: pip install 'torchmill[tokenizers]'.",
            )
        try:
            _ = self._library
        except Exception as error:  # the library raises nothing else
            raise UserError(
                f"{place} is no tokenizer: {' '.join(str(error).split())}.",
                f"Give the {FILE} that lies beside a network's weights, or that tokenizer.save(…) has written.",
            ) from None

    @cached_property
    def _library(self) -> "tokenizers.Tokenizer":
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # its threads would not survive a fork
        import tokenizers

        tokenizer = tokenizers.Tokenizer.from_str(self.json)
        tokenizer.no_padding()
        tokenizer.no_truncation()
        return tokenizer

    @cached_property
    def _settings(self) -> dict[str, Any]:
        return json.loads(self.json)

    @cached_property
    def tokens(self) -> tuple[str, ...]:
        """Tokens in the order of their ids."""
        by_id = {number: token for token, number in self._library.get_vocab(with_added_tokens=True).items()}
        return tuple(by_id.get(number, f"<{number}>") for number in range(max(by_id) + 1))

    @cached_property
    def padding(self) -> int:
        """Id that pads texts; 0 if the file names none and has no usual one."""
        if settings := self._settings.get("padding"):
            return int(settings["pad_id"])
        ids = (self._library.token_to_id(token) for token in PADDINGS)
        return next((number for number in ids if number is not None), 0)

    @property
    def max_length(self) -> int | None:
        """Largest number of tokens by the file; None if it cuts no texts."""
        settings = self._settings.get("truncation")
        return int(settings["max_length"]) if settings else None

    @property
    def cut(self) -> str:
        """The rules that cut a text into tokens, in words."""
        model = self._settings.get("model", {})
        return f"tokens by a tokenizer ({model.get('type', 'of its own kind')}, {len(self.tokens):,} tokens)"

    def pieces(self, words: Sequence[str], most: int | None) -> Pieces:
        """Return the ids of a text of words, and the place of each word's first piece.

        Args:
            most: largest number of ids, special ones included; the end of a longer text is cut off.
        """
        text, starts = joined(words)
        encoded = self._encoded(text, most)
        firsts = [-1] * len(words)
        word = 0
        for place, (start, end) in enumerate(encoded.offsets):
            if encoded.special_tokens_mask[place] or start == end:
                continue
            while word + 1 < len(words) and starts[word + 1] < end:
                word += 1
            if firsts[word] < 0:
                firsts[word] = place
        return Pieces(encoded.ids or [self.padding], firsts, len(encoded.overflowing) > 0)

    def text_pieces(self, text: str, most: int | None) -> Pieces:
        """Return the ids of a text."""
        encoded = self._encoded(text, most)
        return Pieces(encoded.ids or [self.padding], [], len(encoded.overflowing) > 0)

    def stream(self, text: str) -> list[int]:
        """Return the ids of a long text, without special tokens."""
        return self._library.encode(text, add_special_tokens=False).ids

    def _encoded(self, text: str, most: int | None) -> "tokenizers.Encoding":
        encoded = self._library.encode(text)
        if most is not None and len(encoded.ids) > most:
            # Cut anew by the library, so that the special tokens at the end stay.
            self._library.enable_truncation(most)
            try:
                encoded = self._library.encode(text)
            finally:
                self._library.no_truncation()
        return encoded

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of ids, without special tokens."""
        return self._library.decode(list(ids))
