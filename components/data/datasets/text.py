"""Plain text: your own text for language models, in windows of tokens; text:PATH.

PATH is a .txt file, or a folder of them: train.txt and perhaps valid.txt and test.txt, folders train, valid and test,
or any other names. Without them, the end of each file is cut off for validation and test. Licence: yours.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from pydantic import Field

from torchmill.components.batches.field_refs import FieldRef
from torchmill.components.data.content import row_digests
from torchmill.components.data.field_splits import FieldSplits
from torchmill.components.data.formats.split_names import split_of
from torchmill.components.encoding.texts import TextEncoding
from torchmill.components.encoding.tokenizer import Tokenizer
from torchmill.components.encoding.vocabulary import SPECIAL, UNKNOWN, Level, Vocabulary, tokenize
from torchmill.components.errors import UserError, nearest
from torchmill.components.reading.folders import walk
from torchmill.components.reading.texts import read_text
from torchmill.components.wording import count, percent

NAMED_FIELDS = True
ORDERED = True

NAME = "tokens"
SPLITS = ("train", "validation", "test")
BLOCK = 100_000
"""Characters that are made tokens at once; blocks end at line feeds if there are some."""

MOST_TOKENS = 50_000
"""Largest vocabulary of words or characters; the most frequent stay."""


def load(
    path: Path,
    tokenizer: str | None = None,
    level: Literal["characters", "words"] = "characters",
    lower_case: bool = False,
    window: Annotated[int, Field(ge=2, le=1_000_000)] = 128,
    test_fraction: Annotated[float, Field(ge=0.001, le=0.9)] = 0.1,
    validation_fraction: Annotated[float, Field(ge=1e-6, le=0.9)] = 0.1,
) -> FieldSplits:
    """Cut texts into windows of tokens that follow each other, without overlap.

    Args:
        tokenizer: file of a pretrained tokenizer, ``tokenizer.json``; without it, tokens are those of ``level``.
        level: characters, with spaces and line feeds, or words, of the training text.
        lower_case: ignore case.
        window: tokens of a window.
        test_fraction: share of each file, from its end, to test with if no file is for test.
        validation_fraction: share to validate with, before that.

    Raises:
        UserError: a file is missing or not UTF-8, or a split holds no window.
    """
    texts = _cut(_read(path), test_fraction, validation_fraction)
    encoding: TextEncoding
    if tokenizer:
        encoding = Tokenizer.read(Path(tokenizer).expanduser())
    else:
        encoding = _vocabulary(texts["train"].values(), level, lower_case, window)
    arrays, origins = {}, {}
    for split in SPLITS:
        ids = np.concatenate([np.empty(0, np.int32), *(_ids(text, encoding) for text in texts[split].values())])
        windows = len(ids) // window
        if not windows:
            raise UserError(
                f"{path}: {split} has {count(len(ids), 'token')}, and a window needs {window}.",
                "Give more text, or set a smaller --data.args.window.",
            )
        arrays[split] = {NAME: ids[: windows * window].reshape(windows, window)}
        origins[split] = [f"{split} token {row * window:,}" for row in range(windows)]
    field = FieldRef(
        name=NAME, file=NAME, kind="ids", shape=(window,), dtype="int32", size=len(encoding.tokens),
        names=encoding.tokens, padding=encoding.padding,
    )  # fmt: skip
    digests = {split: row_digests(part[NAME]) for split, part in arrays.items()}
    notes = _notes(texts, arrays, encoding)
    return FieldSplits(arrays, (field,), digests, None, origins, str(path), notes, encoding)


def _read(path: Path) -> dict[str, dict[str, str]]:
    """Return texts by split and file; all as train if no name of a file or folder is that of a split."""
    if not path.exists():
        beside = [each.name for each in path.parent.iterdir()] if path.parent.is_dir() else []
        raise UserError(f"There is no {path}.", nearest(path.name, beside))
    files = [path]
    if path.is_dir():
        files = [
            Path(place) / name for place, names, _ in walk(path) for name in names if name.lower().endswith(".txt")
        ]
    if not files:
        raise UserError(f"There are no texts in {path}.", "Their names end in .txt.")
    parts: dict[str, dict[str, str]] = {}
    for file in files:
        inside = file.relative_to(path).parts if path.is_dir() else (file.name,)
        split = split_of(inside[0]) or split_of(file.stem) or "train"
        parts.setdefault(split, {})[str(file)] = read_text(file)
    if "train" not in parts:
        raise UserError(f"{path} has texts for {' and '.join(parts)} alone.", "Name a file train.txt.")
    return parts


def _cut(
    parts: Mapping[str, Mapping[str, str]], test_fraction: float, validation_fraction: float
) -> dict[str, dict[str, str]]:
    """Cut the end of each training file off for the splits that are missing."""
    texts = {split: dict(part) for split, part in parts.items()}
    for split, fraction in (("test", test_fraction), ("validation", validation_fraction)):
        if split in texts:
            continue
        texts[split] = {}
        for file, text in texts["train"].items():
            # Before a word: a piece of one would be a token that nobody wrote.
            end = len(text) - round(fraction * len(parts["train"][file]))
            space = text.rfind(" ", 0, end)
            end = space if space > 0 else end
            texts["train"][file], texts[split][file] = text[:end], text[end:]
    return texts


def _vocabulary(texts: Iterable[str], level: Level, lower_case: bool, window: int) -> Vocabulary:
    counts: Counter[str] = Counter()
    keeps_spaces = level == "characters"
    for text in texts:
        counts.update(tokenize(text, level, lower_case, keeps_spaces))
    frequent = sorted(counts, key=lambda token: (-counts[token], token))[: MOST_TOKENS - len(SPECIAL)]
    return Vocabulary(level, lower_case, window, (*SPECIAL, *frequent), keeps_spaces)


def _ids(text: str, encoding: TextEncoding) -> np.ndarray:
    """Return the ids of a text, int32."""
    ids: list[int] = []
    start = 0
    while start < len(text):
        end = text.rfind("\n", start, start + BLOCK) + 1 if start + BLOCK < len(text) else len(text)
        end = end if end > start else start + BLOCK
        ids += encoding.stream(text[start:end])
        start = end
    return np.array(ids, np.int32)


def _notes(
    texts: Mapping[str, Mapping[str, str]], arrays: Mapping[str, Mapping[str, np.ndarray]], encoding: TextEncoding
) -> tuple[str, ...]:
    """Describe the tokens: kind, mean length and share of unknown ones."""
    characters = sum(map(len, texts["train"].values())) / max(1, arrays["train"][NAME].size)
    notes = [f"texts become {encoding.cut}; a token has {characters:.3g} characters on average"]
    if isinstance(encoding, Vocabulary):
        unknown = percent(float((arrays["test"][NAME] == UNKNOWN).mean()))
        notes.append(f"{len(encoding.tokens) - len(SPECIAL):,} tokens; {unknown} of those of test are unknown")
    return tuple(notes)
