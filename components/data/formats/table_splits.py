"""The rows of a table as splits of numbers, or of the token ids of one column of texts."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np

from torchmill.components import tasks
from torchmill.components.data.content import digests_of
from torchmill.components.data.formats.labels import Labels
from torchmill.components.data.formats.table_columns import (
    MOSTLY,
    ColumnGuess,
    DateOrder,
    column_of,
    guess,
    notes_on,
    raw_values,
    refuse,
)
from torchmill.components.data.formats.table_labels import (
    fault_of,
    label_columns,
    label_faults,
    labels_of,
    names_in,
    refuse_joined,
    skewed,
)
from torchmill.components.data.formats.texts import Texts, complete, encode_splits
from torchmill.components.data.lost_cells import lost_cells
from torchmill.components.data.splits import Split, Splits, cut
from torchmill.components.encoding.columns import Columns
from torchmill.components.encoding.vocabulary import Level
from torchmill.components.errors import UserError, nearest
from torchmill.components.reading.dates import looks_like_date
from torchmill.components.reading.table_files import read_any_table
from torchmill.components.reading.tables import MISSING, USUAL_TEXTS, Table, number_of

logger = logging.getLogger("torchmill")

TEST_IS_CUT = "test is cut from the only table by content: equal rows stay together, and stay there when it grows"

FILE_NAMES = {"train": ("train",), "validation": ("val", "valid", "validation"), "test": ("test",)}
"""Names of the splits' files, without their ending."""

ROWS_OF_A_PIECE = 250
"""Training rows for each piece of a number."""

WIDE = 100
"""Largest number of columns of numbers whose numbers have pieces: others, such as pixels, would become too many."""


@dataclass(frozen=True)
class TableSettings:
    """Arguments of the data sets of tables, which their ``load`` describes."""

    label: str | list[str] | None
    text: str | None
    task: str
    target_scale: Literal["linear", "log"]
    ignore: str | list[str]
    date_order: DateOrder
    test: str | None
    test_fraction: float
    validation_fraction: float
    max_categories: int
    pieces: int
    level: Level
    max_length: int
    lower_case: bool


def read_splits(path: Path, settings: TableSettings, suffixes: Sequence[str]) -> Splits:
    """Read a table, or a folder of tables by split.

    Args:
        suffixes: endings of the tables' names.

    Raises:
        UserError: the table can't be read, or its columns don't fit; all such columns are named.
    """
    task = settings.task
    if task != "auto" and task not in tasks.names():
        raise UserError(f"Unknown task {task!r}.", nearest(task, ["auto", *tasks.names()]))
    tables = _tables(path, settings.test, suffixes)
    targets, ignored = label_columns(tables["train"], settings.label), names_in(settings.ignore)
    columns = _input_columns(tables["train"], targets, ignored)
    is_log = settings.target_scale == "log"
    if is_log and task not in ("auto", "regression"):
        raise UserError(
            f"{path}: target_scale is log, and the task is {task}.", "Only targets of a regression have one."
        )
    set_task = "regression" if is_log else None if task == "auto" else task
    notes = [f"the label is the column {', '.join(map(repr, targets))}"] if settings.label is None else []
    notes += [f"left out: {', '.join(map(repr, ignored))}"] if ignored else []
    if len(targets) == 1 and set_task in (None, "multilabel"):
        refuse_joined(tables["train"], targets[0])
    faults = label_faults(tables, targets, set_task, is_log)
    if column := _text_column(tables["train"], columns, settings.text):
        refuse([], [*faults, *_text_faults(tables, column)], str(path))
        labels = labels_of(tables, targets, set_task, str(path), notes)
        notes += [f"beside the texts of '{column}' {len(columns) - 1} columns are left out"] if columns[1:] else []
        splits = _texts(tables, column, labels, settings, str(path))
        splits = replace(splits, columns=Columns.called([column]))
    else:
        guesses = [guess(tables, name, settings.date_order) for name in columns]
        refuse(guesses, faults, str(path))
        labels = labels_of(tables, targets, set_task, str(path), notes)
        splits = _numbers(tables, guesses, labels, settings, str(path))
        notes += [note for each in guesses for note in each.notes]
    notes += skewed(labels, targets) if not is_log else ()
    logger.info("%s: %s of the column %s", path, labels.task, ", ".join(targets))
    return replace(splits, target_scale=settings.target_scale, notes=(*notes, *splits.notes))


def _tables(path: Path, test: str | None, suffixes: Sequence[str]) -> dict[str, Table]:
    files = {"train": path}
    if path.is_dir():
        inside = {file.stem.lower(): file for file in sorted(path.iterdir()) if file.suffix.lower() in suffixes}
        files = {split: inside[name] for split, names in FILE_NAMES.items() for name in names if name in inside}
        if "train" not in files:
            raise UserError(
                f"{path} has no train{suffixes[0]}.", f"It has {', '.join(sorted(inside)) or 'no table at all'}."
            )
    elif not path.exists() or path.suffix.lower() not in suffixes:
        siblings = (
            [file.name for file in path.parent.iterdir() if file.suffix.lower() in suffixes]
            if path.parent.is_dir()
            else []
        )
        endings = " nor ".join(suffixes[:2])
        fault = "There is no" if not path.exists() else f"Neither {endings}:" if suffixes[1:] else f"Not {endings}:"
        raise UserError(f"{fault} {path}.", nearest(path.name, siblings))
    if test:
        files["test"] = Path(test).expanduser().absolute()
    tables = {split: read_any_table(file) for split, file in files.items()}
    for table in tables.values():
        if missing := [name for name in tables["train"].columns if name not in table.columns]:
            names = ", ".join(f"'{name}'" for name in missing)
            raise UserError(f"{table.file} has no column {names}, as {tables['train'].file.name} has.")
    return tables


def _input_columns(table: Table, targets: Sequence[str], ignored: Sequence[str]) -> list[str]:
    for name in ignored:
        if name not in table.columns:
            raise UserError(f"{table.file} has no column '{name}'.", nearest(name, table.columns))
    columns = [name for name in table.columns if name not in (*targets, *ignored)]
    if not columns:
        raise UserError(f"{table.file} has no column beside the label {', '.join(targets)}.")
    return columns


def _text_column(table: Table, columns: Sequence[str], text: str | None) -> str | None:
    if text is not None:
        if text not in columns:
            raise UserError(f"{table.file} has no column '{text}' beside the label.", nearest(text, columns))
        return text
    usual = [name for name in columns if name.lower() in USUAL_TEXTS]
    for name in usual or (columns if len(columns) == 1 else []):
        cells = [cell for cell in table.cells(name) if cell.lower() not in MISSING]
        if cells and np.mean([np.isnan(number_of(cell)) and not looks_like_date(cell) for cell in cells]) > 1 - MOSTLY:
            return name
    return None


def _texts(
    tables: dict[str, Table],
    column: str,
    labels: Labels,
    settings: TableSettings,
    place: str,
) -> Splits:
    parts = {
        split: Texts(table.names(column), labels.values[split], table.origins()) for split, table in tables.items()
    }
    parts = complete(
        parts, place, test_fraction=settings.test_fraction, validation_fraction=settings.validation_fraction
    )
    return encode_splits(
        parts,
        labels.classes,
        settings.level,
        lower_case=settings.lower_case,
        max_length=settings.max_length,
        task=labels.task,
        source=place,
    )


def _text_faults(tables: dict[str, Table], column: str) -> list[str]:
    """Return the faults of a column of texts, in words."""
    return [fault for table in tables.values() if (fault := fault_of(table, lambda table=table: table.names(column)))]


def _numbers(
    tables: dict[str, Table], guesses: Sequence[ColumnGuess], labels: Labels, settings: TableSettings, place: str
) -> Splits:
    columns = [each.name for each in guesses]
    digests = {split: _content(table, columns) for split, table in tables.items()}
    rows = {split: np.arange(len(table.rows)) for split, table in tables.items()}
    sources = dict(tables)
    if "test" not in tables:
        train = tables["train"]
        rows |= cut(labels.values["train"], digests["train"], {"test": settings.test_fraction})
        if not len(rows["test"]):
            distinct = len(np.unique(digests["train"]))
            raise UserError(
                f"{place} has too few rows to cut any off for test: {distinct:,} distinct ones of {len(train.rows):,}, "
                "and equal rows stay together.",
                "Add rows until each class has two, or a file with the test rows.",
            )
        sources["test"] = train
    is_wide = sum(each.kind == "number" for each in guesses) > WIDE
    pieces = 0 if is_wide else min(settings.pieces, len(rows["train"]) // ROWS_OF_A_PIECE)
    encoded = [column_of(tables["train"], each, rows["train"], settings.max_categories, pieces) for each in guesses]
    lost, parts = {}, {}
    for split in rows:
        raw = [raw_values(sources[split], column)[rows[split]] for column in encoded]
        blocks = [column.encode(values) for column, values in zip(encoded, raw, strict=True)]
        if split == "test":
            triples = zip(encoded, raw, blocks, strict=True)
            lost = {column.name: lost_cells(column, values, block) for column, values, block in triples}
        source = "train" if sources[split] is tables["train"] else split
        origins = sources[split].origins()
        parts[split] = Split(
            np.concatenate(blocks, 1),
            labels.values[source][rows[split]],
            [origins[row] for row in rows[split].tolist()],
            digests[source][rows[split]],
        )
    return Splits(
        parts["train"],
        parts["test"],
        parts.get("validation"),
        labels.classes,
        labels.task,
        source=place,
        columns=Columns(tuple(encoded)),
        lost_cells=lost,
        notes=(*notes_on(encoded), *_on_pieces(settings, is_wide, rows), *(() if "test" in tables else (TEST_IS_CUT,))),
    )


def _on_pieces(settings: TableSettings, is_wide: bool, rows: Mapping[str, np.ndarray]) -> tuple[str, ...]:
    """Return that numbers could be given in pieces, where that would help."""
    if settings.pieces or is_wide or len(rows["train"]) < 2 * ROWS_OF_A_PIECE:
        return ()
    return ("--data.args.pieces 16 gives numbers in pieces, too, from which networks learn curves sooner",)


def _content(table: Table, columns: Sequence[str]) -> np.ndarray:
    """Return the digest of each row's inputs, in which 1 and 1.0 are equal, before they are encoded."""
    cells = [map(_plain, table.cells(name)) for name in columns]
    return digests_of("\0".join(row).encode(errors="surrogatepass") for row in zip(*cells, strict=True))


def _plain(cell: str) -> str:
    number = number_of(cell)
    return str(number + 0.0) if np.isfinite(number) else cell
