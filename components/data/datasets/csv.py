"""Table: your own .csv or .tsv, numbers or texts with a label in each row; csv:PATH.

PATH is a file, or a folder with train.csv and perhaps val.csv and test.csv. Licence: yours.
"""

import logging
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from pydantic import Field

from torchmill.components import tasks
from torchmill.components.data.content import digests_of
from torchmill.components.data.formats.labels import Labels, read_labels
from torchmill.components.data.formats.table_columns import (
    MOSTLY,
    ColumnGuess,
    column_of,
    guess,
    notes_on,
    refuse,
)
from torchmill.components.data.formats.texts import Texts, complete, encode_splits
from torchmill.components.data.splits import Split, Splits, cut
from torchmill.components.encoding.class_names import in_order
from torchmill.components.encoding.columns import Column, Columns
from torchmill.components.encoding.vocabulary import Level
from torchmill.components.errors import UserError, nearest, shortened
from torchmill.components.reading.tables import MISSING, USUAL_LABELS, USUAL_TEXTS, Table, number_of, read_table

logger = logging.getLogger("torchmill")

TEST_IS_CUT = "test is cut from the only table by content: equal rows stay together, and stay there when it grows"

FEW = 20
"""Largest number of different fractions that may be meant as classes."""

PLAIN = re.compile(r"-?(0|[1-9][0-9]*)(\.0+)?")
"""Whole number without another spelling than with or without a fraction of 0."""

FILE_NAMES = {"train": ("train",), "validation": ("val", "valid", "validation"), "test": ("test",)}
"""Names of the splits' files, without their ending."""


def load(
    path: Path,
    validation_fraction: Annotated[float, Field(ge=1e-6, le=0.9)] = 0.1,
    label: str | list[str] | None = None,
    text: str | None = None,
    task: str = "auto",
    ignore: str | list[str] = "",
    test: str | None = None,
    test_fraction: Annotated[float, Field(ge=0.001, le=0.9)] = 0.2,
    max_categories: Annotated[int, Field(ge=2, le=100_000)] = 20,
    level: Literal["words", "characters"] = "words",
    max_length: Annotated[int, Field(ge=1, le=1_000_000)] = 256,
    lower_case: bool = True,
) -> Splits:
    """Read numbers (N, F), or the token ids of one column of texts.

    A column of categories, for example colours, is one-hot encoded, by the training rows' categories in sorted order.

    Args:
        label: column of the label; without it label, target, class or y, or else the last one. Several columns,
            separated by commas or as a list, are yes or no (0 and 1) or targets.
        text: column with texts; without it text, sentence or review, or the only one beside the label.
        task: classification, multilabel or regression; auto is a regression if labels are fractions, else classes.
        ignore: columns to leave out, separated by commas or as a list, for example row numbers.
        test: another file with the test rows.
        test_fraction: share of the rows to test with if there are no test rows; equal rows stay together.
        max_categories: largest number of categories in a column.
        level: words or characters, for texts.
        max_length: longest text in tokens; more are cut off.
        lower_case: ignore case in texts, so that Read and read are one word.

    Raises:
        UserError: as ``read_table``; a column is missing; a cell is empty or not a number; labels fit no task.
    """
    if task != "auto" and task not in tasks.names():
        raise UserError(f"Unknown task {task!r}.", nearest(task, ["auto", *tasks.names()]))
    tables = _tables(path, test)
    label_columns = _label_columns(tables["train"], label)
    columns = _input_columns(tables["train"], label_columns, _names(ignore))
    set_task = None if task == "auto" else task
    notes = [f"the label is the column {', '.join(map(repr, label_columns))}"] if label is None else []
    notes += [f"left out: {', '.join(map(repr, _names(ignore)))}"] if ignore else []
    if len(label_columns) == 1 and set_task in (None, "multilabel"):
        _refuse_joined(tables["train"], label_columns[0])
    if column := _text_column(tables["train"], columns, text):
        refuse([], [*_label_faults(tables, label_columns, set_task), *_text_faults(tables, column)], str(path))
        labels = _labels(tables, label_columns, set_task, str(path), notes)
        notes += [f"beside the texts of '{column}' {len(columns) - 1} columns are left out"] if columns[1:] else []
        splits = _texts(tables, column, labels, test_fraction, validation_fraction, level, lower_case, max_length, path)
        splits = replace(splits, columns=Columns.called([column]), notes=(*notes, *splits.notes))
    else:
        guesses = [guess(tables, name, max_categories) for name in columns]
        refuse(guesses, _label_faults(tables, label_columns, set_task), str(path))
        labels = _labels(tables, label_columns, set_task, str(path), notes)
        splits = _numbers(tables, guesses, labels, test_fraction, str(path))
        splits = replace(splits, notes=(*notes, *(note for each in guesses for note in each.notes), *splits.notes))
    logger.info("%s: %s of the column %s", path, labels.task, ", ".join(label_columns))
    return splits


def _texts(
    tables: dict[str, Table],
    column: str,
    labels: Labels,
    test_fraction: float,
    validation_fraction: float,
    level: Level,
    lower_case: bool,
    max_length: int,
    path: Path,
) -> Splits:
    parts = {
        split: Texts(table.names(column), labels.values[split], table.origins()) for split, table in tables.items()
    }
    parts = complete(parts, str(path), test_fraction=test_fraction, validation_fraction=validation_fraction)
    return encode_splits(
        parts,
        labels.classes,
        level,
        lower_case=lower_case,
        max_length=max_length,
        task=labels.task,
        source=str(path),
    )


def _text_faults(tables: dict[str, Table], column: str) -> list[str]:
    """Return the faults of a column of texts, in words."""
    return [fault for table in tables.values() if (fault := _fault_of(table, lambda table=table: table.names(column)))]


def _fault_of(table: Table, work: Callable[[], object]) -> str:
    """Return the message of the error that ``work`` raises about a table; empty if it raises none."""
    try:
        work()
    except UserError as error:
        return error.message.rstrip(".").replace(f"{table.file} line", f"{table.file.name} line")
    return ""


def _label_faults(tables: dict[str, Table], names: Sequence[str], task: str | None) -> list[str]:
    """Return the cells without a label, in words."""
    missing = [{""} if _are_names(tables["train"], name, task) else MISSING for name in names]
    return [
        fault
        for table in tables.values()
        for name, values in zip(names, missing, strict=True)
        if name in table.columns and (fault := _fault_of(table, lambda t=table, n=name, v=values: t.column(n, v)))
    ]


def _are_names(table: Table, name: str, task: str | None) -> bool:
    """Return True for a column of labels that are names, among which "none" and "NA" are values."""
    cells = {cell for cell in table.cells(name) if cell.lower() not in MISSING}
    return task in (None, "classification") and not all(np.isfinite(number_of(cell)) for cell in cells)


def _tables(path: Path, test: str | None) -> dict[str, Table]:
    files = {"train": path}
    if path.is_dir():
        inside = {file.stem.lower(): file for file in sorted(path.glob("*.[ct]sv"))}
        files = {split: inside[name] for split, names in FILE_NAMES.items() for name in names if name in inside}
        if "train" not in files:
            raise UserError(f"{path} has no train.csv.", f"It has {', '.join(sorted(inside)) or 'no table at all'}.")
    elif not path.exists() or path.suffix.lower() not in (".csv", ".tsv", ".txt"):
        siblings = [file.name for file in path.parent.glob("*.[ct]sv")] if path.parent.is_dir() else []
        fault = "There is no" if not path.exists() else "Neither .csv nor .tsv:"
        raise UserError(f"{fault} {path}.", nearest(path.name, siblings))
    if test:
        files["test"] = Path(test).expanduser().absolute()
    tables = {split: read_table(file) for split, file in files.items()}
    for table in tables.values():
        if missing := [name for name in tables["train"].columns if name not in table.columns]:
            raise UserError(f"{table.file} has no column '{missing[0]}', as {tables['train'].file.name} has.")
    return tables


def _names(text: str | list[str]) -> list[str]:
    """Return names that are separated by commas, or those of a list."""
    if isinstance(text, list):
        return text
    return [name.strip() for name in text.split(",") if name.strip()]


def _label_columns(table: Table, label: str | list[str] | None) -> list[str]:
    if isinstance(label, str) and label in table.columns:
        return [label]
    if label is not None:
        names = _names(label)
        for name in names or [""]:
            if name not in table.columns:
                raise UserError(f"{table.file} has no column '{name}'.", nearest(name, table.columns))
        return names
    by_lower_case = {name.lower(): name for name in table.columns}
    return [next((by_lower_case[name] for name in USUAL_LABELS if name in by_lower_case), table.columns[-1])]


def _input_columns(table: Table, label_columns: Sequence[str], ignored: Sequence[str]) -> list[str]:
    for name in ignored:
        if name not in table.columns:
            raise UserError(f"{table.file} has no column '{name}'.", nearest(name, table.columns))
    columns = [name for name in table.columns if name not in (*label_columns, *ignored)]
    if not columns:
        raise UserError(f"{table.file} has no column beside the label {', '.join(label_columns)}.")
    return columns


def _labels(tables: dict[str, Table], names: Sequence[str], task: str | None, place: str, notes: list[str]) -> Labels:
    """Return the labels, and append guesses about them to ``notes``."""
    if len(names) == 1 and task in (None, "classification"):
        (name,) = names
        are_names = _are_names(tables["train"], name, task)
        cells = {split: table.column(name, {""} if are_names else MISSING) for split, table in tables.items()}
        values = np.array([number_of(cell) for cell in cells["train"]])
        if not np.isfinite(values).any():
            tables["train"].names(name)
        are_whole = np.isfinite(values).all() and (values == np.floor(values)).all()
        if task or are_whole or not np.isfinite(values).all():
            return read_labels(_spelled(cells, bool(are_whole), name, task, notes), place, "classification")
        if (few := len(set(cells["train"]))) <= min(FEW, len(values) / 2):
            notes.append(
                f"{few} different numbers in '{name}' are taken as targets of a regression, also if written "
                f"differently; where they are classes: --data.args.task classification"
            )
    if task == "classification":
        raise UserError(f"{place}: {len(names)} columns of labels, and the task is classification.", "Name one column.")
    numbers = {split: np.stack([table.numbers(name) for name in names], 1) for split, table in tables.items()}
    if not task:
        is_multilabel = len(names) > 1 and bool(np.isin(numbers["train"], (0, 1)).all())
        task = "multilabel" if is_multilabel else "regression"
    return read_labels(numbers, place, task, tuple(names))


def _spelled(
    cells: dict[str, list[str]], are_whole: bool, name: str, task: str | None, notes: list[str]
) -> dict[str, list[str]]:
    """Return names of classes as they are spelled; only 1 and 1.0 are one class, if all are such numbers."""
    every = {cell for column in cells.values() for cell in column}
    if words := sorted(cell for cell in every if cell.lower() in MISSING):
        notes.append(f"{', '.join(map(repr, words))} in '{name}' is a class of its own")
    if not are_whole:
        return cells
    classes = set(cells["train"])
    if not all(PLAIN.fullmatch(cell) for cell in every):
        example = shortened([*map(repr, in_order(classes))], 3)
        notes.append(f"labels in '{name}' keep their spelling: {example} are {len(classes):,} classes")
        return cells
    cells = {split: [cell.partition(".")[0] for cell in column] for split, column in cells.items()}
    if not task and len(set(cells["train"])) > 2:
        notes.append(
            f"{len(set(cells['train'])):,} whole numbers in '{name}' are taken as classes; for numbers: "
            "--data.args.task regression"
        )
    return cells


def _refuse_joined(table: Table, name: str) -> None:
    """Refuse a column whose cells join several labels, for example p|q: each combination would become a class.

    In such a column, half of the parts or more also stand alone; in "red, small" and "blue, large" none does.
    """
    labels = set(table.cells(name)) - {""}
    for sign in "|;,":
        joined = sorted(label for label in labels if sign in label.strip(sign))
        parts = sorted({part.strip() for label in labels for part in label.split(sign)} - {""})
        alone = len(labels.intersection(parts))
        has_numbers = np.isfinite([number_of(part) for part in parts]).any()
        if joined and len(parts) < len(labels) and 2 * alone >= len(parts) and not has_numbers:
            example = '--data.args \'{"label": "' + ",".join(parts[:5]) + "\"}'"
            raise UserError(
                f"{table.file}: cells of the column '{name}', for example '{joined[0]}', seem to hold several labels.",
                f"Give each label a column of 0 and 1, and name these: {example}. If each cell is one class, "
                'say "task": "classification".',
            )


def _text_column(table: Table, columns: Sequence[str], text: str | None) -> str | None:
    if text is not None:
        if text not in columns:
            raise UserError(f"{table.file} has no column '{text}' beside the label.", nearest(text, columns))
        return text
    usual = [name for name in columns if name.lower() in USUAL_TEXTS]
    for name in usual or (columns if len(columns) == 1 else []):
        if np.isnan([number_of(cell) for cell in table.cells(name)]).mean() > 1 - MOSTLY:
            return name
    return None


def _numbers(
    tables: dict[str, Table], guesses: Sequence[ColumnGuess], labels: Labels, test_fraction: float, place: str
) -> Splits:
    columns = [each.name for each in guesses]
    digests = {split: _content(table, columns) for split, table in tables.items()}
    rows = {split: np.arange(len(table.rows)) for split, table in tables.items()}
    sources = dict(tables)
    if "test" not in tables:
        train = tables["train"]
        rows |= cut(labels.values["train"], digests["train"], {"test": test_fraction})
        if not len(rows["test"]):
            distinct = len(np.unique(digests["train"]))
            raise UserError(
                f"{place} has too few rows to cut any off for test: {distinct:,} distinct ones of {len(train.rows):,}, "
                "and equal rows stay together.",
                "Add rows until each class has two, or a file with the test rows.",
            )
        sources["test"] = train
    encoded = [column_of(tables["train"], each, rows["train"]) for each in guesses]
    features = {split: [_column(sources[split], column)[rows[split]] for column in encoded] for split in rows}
    parts = {}
    for split, blocks in features.items():
        source = "train" if sources[split] is tables["train"] else split
        origins = sources[split].origins()
        parts[split] = Split(
            np.concatenate(blocks, 1).astype(np.float32),
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
        notes=(*notes_on(encoded), *(() if "test" in tables else (TEST_IS_CUT,))),
    )


def _content(table: Table, columns: Sequence[str]) -> np.ndarray:
    """Return the digest of each row's inputs, in which 1 and 1.0 are equal, before they are encoded."""
    cells = [map(_plain, table.cells(name)) for name in columns]
    return digests_of("\0".join(row).encode(errors="surrogatepass") for row in zip(*cells, strict=True))


def _plain(cell: str) -> str:
    number = number_of(cell)
    return str(number + 0.0) if np.isfinite(number) else cell


def _column(table: Table, column: Column) -> np.ndarray:
    """Return a column's numbers (N, 1), or its one-hot categories (N, categories)."""
    if not column.categories:
        return table.numbers(column.name)[:, None] - column.offset
    one_hot = column.one_hot(table.cells(column.name))
    if unknown := int((~one_hot.any(1)).sum()):
        logger.info(
            "%s: %d values of '%s' are not among those of the training rows: all 0", table.file, unknown, column.name
        )
    return one_hot
