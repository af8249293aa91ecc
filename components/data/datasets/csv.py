"""Table: your own .csv or .tsv, numbers or texts with a label in each row; csv:PATH.

PATH is a file, or a folder with train.csv and, where there are such, val.csv and test.csv. Licence: yours.
"""

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from torchmill.components import tasks
from torchmill.components.data.encoding.columns import Column, Columns
from torchmill.components.data.encoding.vocabulary import Level
from torchmill.components.data.formats.labels import Labels, read_labels
from torchmill.components.data.formats.tables import USUAL_LABELS, USUAL_TEXTS, Table, number_of, read_table
from torchmill.components.data.formats.texts import Texts, complete, encode_splits
from torchmill.components.data.splits import Split, Splits, cut
from torchmill.components.errors import UserError, nearest

logger = logging.getLogger("torchmill")

FILE_NAMES = {"train": ("train",), "validation": ("val", "valid", "validation"), "test": ("test",)}
MOSTLY = 0.9
"""Where more of the cells are numbers, the others are mistakes; otherwise the column holds names of categories."""


def load(
    path: Path,
    validation_fraction: float = 0.1,
    label: str | None = None,
    text: str | None = None,
    task: str = "auto",
    ignore: str = "",
    test: str | None = None,
    test_fraction: float = 0.2,
    max_categories: int = 20,
    level: Level = "words",
    max_length: int = 256,
    lower_case: bool = True,
) -> Splits:
    """Make numbers (N, F), or token ids of one column of texts.

    Columns of names, as of colours, become a 0 or 1 for each that the training rows hold, in the order of the alphabet.

    Args:
        label: its column; without it label, target, class or y, or else the last one. Several, separated by commas, are
            yes or no (0 and 1) or targets.
        text: the column with texts; without it one called text, sentence or review, or the only one beside the label.
        task: auto is a regression where labels are fractions, else classes; or classification, multilabel, regression.
        ignore: columns that are left out, as numbers of rows, separated by commas.
        test: another file with the test rows.
        test_fraction: cut off where there are no test rows, the same share of each class; equal rows stay together.
        max_categories: a column may hold so many different names.
        level: of texts, words or characters.
        max_length: tokens of a text that count.
        lower_case: of texts, Read and read are one word.

    Raises:
        UserError: as ``read_table``; a column is not there; a cell is empty or not a number; labels fit no task.
    """
    if task != "auto" and task not in tasks.names():
        raise UserError(f"Unknown task {task!r}.", nearest(str(task), ["auto", *tasks.names()]))
    tables = _tables(path, test)
    labels_in, left_out = _label_columns(tables["train"], label), _names(ignore)
    for name in left_out:
        if name not in tables["train"].columns:
            raise UserError(f"{tables['train'].file} has no column '{name}'.", nearest(name, tables["train"].columns))
    columns = [name for name in tables["train"].columns if name not in labels_in + left_out]
    if not columns:
        raise UserError(f"{path} has no column beside the label {', '.join(labels_in)}.")
    labels = _labels(tables, labels_in, None if task == "auto" else task, str(path))
    logger.info("%s: %s of the column %s", path, labels.task, ", ".join(labels_in))
    if not (column := _text_column(tables["train"], columns, text)):
        return _numbers(tables, columns, labels, test_fraction, max_categories, str(path))
    if len(columns) > 1:
        logger.info("%s: beside the texts of '%s' %d columns are left out", path, column, len(columns) - 1)
    parts = {
        split: Texts(table.column(column), labels.values[split], table.origins()) for split, table in tables.items()
    }
    parts = complete(parts, str(path), test_fraction=test_fraction, validation_fraction=validation_fraction)
    splits = encode_splits(
        parts,
        labels.classes,
        level,
        lower_case=lower_case,
        max_length=max_length,
        task=labels.task,
        source=str(path),
    )
    return replace(splits, columns=Columns.called([column]))


def _tables(path: Path, test: str | None) -> dict[str, Table]:
    files = {"train": path}
    if path.is_dir():
        inside = {file.stem.lower(): file for file in sorted(path.glob("*.[ct]sv"))}
        files = {split: inside[name] for split, names in FILE_NAMES.items() for name in names if name in inside}
        if "train" not in files:
            raise UserError(f"{path} has no train.csv.", f"It has {', '.join(sorted(inside)) or 'no table at all'}.")
    elif not path.exists() or path.suffix.lower() not in (".csv", ".tsv", ".txt"):
        beside = [file.name for file in path.parent.glob("*.[ct]sv")] if path.parent.is_dir() else []
        what = "There is no" if not path.exists() else "Neither .csv nor .tsv:"
        raise UserError(f"{what} {path}.", nearest(path.name, beside))
    if test:
        files["test"] = Path(test).expanduser().absolute()
    tables = {split: read_table(file) for split, file in files.items()}
    for table in tables.values():
        if missing := [name for name in tables["train"].columns if name not in table.columns]:
            raise UserError(f"{table.file} has no column '{missing[0]}', as {tables['train'].file.name} has.")
    return tables


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


def _label_columns(table: Table, label: str | None) -> list[str]:
    if label is not None and label in table.columns:
        return [label]
    if label is not None:
        names = _names(label)
        for name in names or [label]:
            if name not in table.columns:
                raise UserError(f"{table.file} has no column '{name}'.", nearest(name, table.columns))
        return names
    by_lower_case = {name.lower(): name for name in table.columns}
    return [next((by_lower_case[name] for name in USUAL_LABELS if name in by_lower_case), table.columns[-1])]


def _labels(tables: dict[str, Table], names: Sequence[str], task: str | None, place: str) -> Labels:
    if len(names) == 1 and task in (None, "multilabel"):
        _refuse_joined(tables["train"], names[0])
    if len(names) == 1 and task in (None, "classification"):
        cells = {split: table.column(names[0]) for split, table in tables.items()}
        values = np.array([number_of(cell) for cell in cells["train"]])
        if not np.isfinite(values).any():
            tables["train"].words(names[0])
        whole = np.isfinite(values).all() and (values == np.floor(values)).all()
        if task or whole or not np.isfinite(values).all():
            if whole:  # 1 and 1.0 are one class
                cells = {split: [_whole(cell) for cell in held] for split, held in cells.items()}
            return read_labels(cells, place, "classification")
    if task == "classification":
        raise UserError(f"{place}: {len(names)} columns of labels, and the task is classification.", "Name one column.")
    numbers = {split: np.stack([table.numbers(name) for name in names], 1) for split, table in tables.items()}
    if not task:
        several = len(names) > 1 and bool(np.isin(numbers["train"], (0, 1)).all())
        task = "multilabel" if several else "regression"
    return read_labels(numbers, place, task, tuple(names))


def _refuse_joined(table: Table, name: str) -> None:
    """Refuse several labels in one cell, as p|q: read as classes, each of their combinations would be one."""
    held = set(table.cells(name)) - {""}
    for sign in "|;,":
        joined = sorted(label for label in held if sign in label.strip(sign))
        parts = sorted({part.strip() for label in held for part in label.split(sign)} - {""})
        alone = len(held.intersection(parts))  # as they are not in "red, small" and "blue, large"
        numbers = np.isfinite([number_of(part) for part in parts]).any()
        if joined and len(parts) < len(held) and 2 * alone >= len(parts) and not numbers:
            example = '--data.args \'{"label": "' + ",".join(parts[:5]) + "\"}'"
            raise UserError(
                f"{table.file}: cells of the column '{name}' as '{joined[0]}' seem to hold several labels.",
                f"Give each label a column of 0 and 1, and name these: {example}. Where they are classes as they "
                'stand, say "task": "classification".',
            )


def _whole(cell: str) -> str:
    value = number_of(cell)
    return str(int(value)) if np.isfinite(value) and value == np.floor(value) else cell


def _text_column(table: Table, columns: Sequence[str], text: str | None) -> str | None:
    if text is not None:
        if text not in columns:
            raise UserError(f"{table.file} has no column '{text}' beside the label.", nearest(text, columns))
        return text
    called = [name for name in columns if name.lower() in USUAL_TEXTS]
    for name in called or (columns if len(columns) == 1 else []):
        if np.isnan([number_of(cell) for cell in table.column(name)]).mean() > 1 - MOSTLY:
            table.words(name)
            return name
    return None


def _numbers(
    tables: dict[str, Table], columns: Sequence[str], labels: Labels, test_fraction: float, most: int, place: str
) -> Splits:
    rows = {split: np.arange(len(table.rows)) for split, table in tables.items()}
    held = dict(tables)
    if "test" not in tables:
        train = tables["train"]
        numbers = [train.columns.index(name) for name in columns]
        same = ["\0".join(row[number] for number in numbers) for row in train.rows]
        rows["train"], rows["test"] = cut(labels.values["train"], (test_fraction,), groups=same)
        if not len(rows["test"]):
            raise UserError(
                f"{place} has too few rows to cut any off for test: {len(set(same)):,} distinct ones of {len(same):,}, "
                "and equal rows stay together.",
                "Two of a class at least, or a file with the test rows.",
            )
        held["test"] = train
    features: dict[str, list[np.ndarray]] = {split: [] for split in rows}
    described, crowded = [], []
    for name in columns:
        column = Column(name, _categories(tables["train"], name, rows["train"]))
        if len(column.categories) > most:
            crowded.append(f"'{name}' ({column.width:,} different, as {column.categories[0][:30]!r})")
        described.append(column)
        for split in rows if not crowded else ():
            features[split].append(_column(held[split], column)[rows[split]])
    if crowded:
        raise UserError(
            f"{place}: not numbers, and too many different values to tell apart: {', '.join(crowded)}.",
            'Name what is text, leave columns out, or allow more: --data.args \'{"text": …, "ignore": "a,b", '
            '"max_categories": 100}\'.',
        )
    parts = {}
    for split, blocks in features.items():
        source = labels.values["train" if held[split] is tables["train"] else split]
        origins = held[split].origins()
        parts[split] = Split(
            np.concatenate(blocks, 1).astype(np.float32),
            source[rows[split]],
            [origins[row] for row in rows[split].tolist()],
        )
    return Splits(
        parts["train"],
        parts["test"],
        parts.get("validation"),
        labels.classes,
        labels.task,
        source=place,
        columns=Columns(tuple(described)),
    )


def _categories(table: Table, name: str, rows: np.ndarray) -> tuple[str, ...]:
    """Names in the training rows of a column; none where it holds numbers."""
    cells = table.column(name)
    if np.isfinite([number_of(cell) for cell in cells]).mean() > MOSTLY:
        return ()
    cells = table.words(name)
    return tuple(sorted({cells[row] for row in rows.tolist()}))


def _column(table: Table, column: Column) -> np.ndarray:
    """The numbers of a column (N, 1), or 0 and 1 for each of its categories (N, categories)."""
    if not column.categories:
        return table.numbers(column.name)[:, None]
    ones = column.one_hot(table.column(column.name))
    if unknown := int((~ones.any(1)).sum()):
        logger.info(
            "%s: %d values of '%s' are not among those of the training rows: all 0", table.file, unknown, column.name
        )
    return ones
