"""CoNLL columns: your own texts with a label for each token; conll:PATH.

PATH is a file, or a folder with train.txt and perhaps valid.txt (or dev.txt) and test.txt. Each line is a token with
its label, in columns between spaces or tabs, and an empty line ends a text. Licence: yours.
"""

from pathlib import Path
from typing import Annotated, NamedTuple

from pydantic import Field

from torchmill.components.data.field_splits import FieldSplits
from torchmill.components.data.formats.split_names import split_of
from torchmill.components.data.formats.user_fields import load_fields
from torchmill.components.errors import UserError, shortened
from torchmill.components.reading.texts import lines, read_text

NAMED_FIELDS = True

DOCUMENT = "-DOCSTART-"
"""Token of lines that begin a document, which are no texts."""

COMMENT = "#"
"""Beginning of comments, if they have another number of columns than tokens."""

MOST_TOLD = 5
"""Faults that an error lists."""


class Texts(NamedTuple):
    """The texts of a file."""

    tokens: list[list[str]]
    labels: list[list[str]]
    origins: list[str]


def load(
    path: Path,
    token: Annotated[int, Field(ge=0, le=1000)] = 0,
    label: Annotated[int | None, Field(ge=0, le=1000)] = None,
    tokenizer: str | None = None,
    max_length: Annotated[int | None, Field(ge=1, le=1_000_000)] = None,
) -> FieldSplits:
    """Read texts as fields ``tokens`` and ``labels``.

    Args:
        token: column of the tokens, from 0.
        label: column of the labels, from 0; without it the last one.
        tokenizer: file of a pretrained tokenizer, ``tokenizer.json``; without it, each word is a token.
        max_length: tokens of a text that count; by default all words, or 256 tokens of a tokenizer.

    Raises:
        UserError: a file is missing, empty or not UTF-8, or lines have other numbers of columns.
    """
    texts = {split: _read(file, token, label) for split, file in _files(path).items()}
    returned = {split: {"tokens": part.tokens, "labels": part.labels} for split, part in texts.items()}
    origins = {split: part.origins for split, part in texts.items()}
    options = {"targets": ["labels"], "max_length": max_length}
    return load_fields({**returned, **options}, str(path), origins=origins, tokenizer=tokenizer)


def read_tokens(file: Path) -> tuple[list[list[str]], list[str]]:
    """Return the tokens of each text in a file, which needs no labels, and the origins of the texts.

    Raises:
        UserError: as ``load``.
    """
    texts = _read(file, 0, 0)
    return texts.tokens, texts.origins


def _files(path: Path) -> dict[str, Path]:
    if not path.is_dir():
        return {"train": path}
    files = sorted(file for file in path.iterdir() if file.is_file() and not file.name.startswith("."))
    named: dict[str, list[Path]] = {}
    for file in files:
        if split := split_of(file.stem) or split_of(file.suffix[1:]):
            named.setdefault(split, []).append(file)
    for split, candidates in named.items():
        if len(candidates) > 1:
            raise UserError(
                f"{path} has {shortened([file.name for file in candidates])}, all for {split}.", "Keep one."
            )
    if "train" not in named:
        raise UserError(
            f"{path} has no file called train{f'; it has {shortened([file.name for file in files])}' * bool(files)}.",
            "Name the files train.txt, valid.txt and test.txt, or name one file.",
        )
    return {split: candidates[0] for split, candidates in named.items()}


def _read(file: Path, token: int, label: int | None) -> Texts:
    """Return the texts of a file, each with its first line as its origin."""
    texts, faults = Texts([], [], []), []
    width, first, is_open = 0, 0, False
    for number, line in enumerate(lines(read_text(file)), 1):
        cells = line.split()
        if not cells or cells[0] == DOCUMENT:
            is_open = False
            continue
        if not width and line.startswith(COMMENT) and len(cells) != 2:
            continue  # a comment before the first token
        width, first = width or len(cells), first or number
        if len(cells) != width:
            if not line.startswith(COMMENT):
                faults.append(f"line {number} has {len(cells)}")
            continue
        if max(token, label or 0) >= width:
            wrong = token if token >= width else label
            raise UserError(
                f"{file} line {number} has {width} columns, and no column {wrong}.", "Columns count from 0."
            )
        if not is_open:
            texts.tokens.append([])
            texts.labels.append([])
            texts.origins.append(f"{file.name} line {number}")
            is_open = True
        texts.tokens[-1].append(cells[token])
        texts.labels[-1].append(cells[width - 1 if label is None else label])
    if faults:
        more = f" and {len(faults) - MOST_TOLD:,} more" * (len(faults) > MOST_TOLD)
        raise UserError(
            f"{file}: line {first} has {width} columns; {', '.join(faults[:MOST_TOLD])}{more}.",
            "Write each token with its label in a line, and an empty line after each text.",
        )
    if not texts.tokens:
        raise UserError(f"{file} has no tokens.", "Write each token with its label in a line.")
    if width == 1 and label != token:
        raise UserError(f"{file} has one column alone.", "Write each token with its label in a line: Anna B-PER")
    return texts
