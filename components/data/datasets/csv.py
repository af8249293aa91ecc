"""Table: your own .csv or .tsv, numbers or texts with a label in each row; csv:PATH.

PATH is a file, or a folder with train.csv and perhaps val.csv and test.csv. Licence: yours.
"""

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from torchmill.components import tasks
from torchmill.components.data.formats.labels import Labels, read_labels
from torchmill.components.data.formats.texts import Texts, complete, encode_splits
from torchmill.components.data.splits import Split, Splits, cut
from torchmill.components.encoding.columns import Column, Columns
from torchmill.components.encoding.vocabulary import Level
from torchmill.components.errors import UserError, nearest
from torchmill.components.reading.tables import USUAL_LABELS, USUAL_TEXTS, Table, number_of, read_table

logger = logging.getLogger("torchmill")

FILE_NAMES = {"train": ("train",), "validation": ("val", "valid", "validation"), "test": ("test",)}
"""Names of the splits' files, without their ending."""

MOSTLY = 0.9
"""Share of numbers above which a column's other cells are mistakes; below it, the column holds categories."""


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
    """Read numbers (N, F), or the token ids of one column of texts.

    A column of categories, for example colours, is one-hot encoded, by the training rows' categories in sorted order.

    Args:
        label: column of the label; without it label, target, class or y, or else the last one. Several columns,
            separated by commas, are yes or no (0 and 1) or targets.
        text: column with texts; without it text, sentence or review, or the only one beside the label.
        task: classification, multilabel or regression; auto is a regression if labels are fractions, else classes.
        ignore: columns to leave out, separated by commas, for example row numbers.
        test: another file with the test rows.
        test_fraction: share of each class to test with if there are no test rows; equal rows stay together.
        max_categories: largest number of categories in a column.
        level: words or characters, for texts.
        max_length: longest text in tokens; more are cut off.
        lower_case: ignore case in texts, so that Read and read are one word.

    Raises:
        UserError: as ``read_table``; a column is missing; a cell is empty or not a number; labels fit no task.
    """
    if task != "auto" and task not in tasks.names():
        raise UserError(f"Unknown task {task!r}.", nearest(str(task), ["auto", *tasks.names()]))
    tables = _tables(path, test)
    label_columns = _label_columns(tables["train"], label)
    columns = _input_columns(tables["train"], label_columns, _names(ignore))
    labels = _labels(tables, label_columns, None if task == "auto" else task, str(path))
    logger.info("%s: %s of the column %s", path, labels.task, ", ".join(label_columns))
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


def _input_columns(table: Table, label_columns: Sequence[str], ignored: Sequence[str]) -> list[str]:
    for name in ignored:
        if name not in table.columns:
            raise UserError(f"{table.file} has no column '{name}'.", nearest(name, table.columns))
    columns = [name for name in table.columns if name not in (*label_columns, *ignored)]
    if not columns:
        raise UserError(f"{table.file} has no column beside the label {', '.join(label_columns)}.")
    return columns


def _labels(tables: dict[str, Table], names: Sequence[str], task: str | None, place: str) -> Labels:
    if len(names) == 1 and task in (None, "multilabel"):
        _refuse_joined(tables["train"], names[0])
    if len(names) == 1 and task in (None, "classification"):
        cells = {split: table.column(names[0]) for split, table in tables.items()}
        values = np.array([number_of(cell) for cell in cells["train"]])
        if not np.isfinite(values).any():
            tables["train"].words(names[0])
        are_whole = np.isfinite(values).all() and (values == np.floor(values)).all()
        if task or are_whole or not np.isfinite(values).all():
            if are_whole:  # 1 and 1.0 are one class
                cells = {split: [_as_whole(cell) for cell in column] for split, column in cells.items()}
            return read_labels(cells, place, "classification")
    if task == "classification":
        raise UserError(f"{place}: {len(names)} columns of labels, and the task is classification.", "Name one column.")
    numbers = {split: np.stack([table.numbers(name) for name in names], 1) for split, table in tables.items()}
    if not task:
        is_multilabel = len(names) > 1 and bool(np.isin(numbers["train"], (0, 1)).all())
        task = "multilabel" if is_multilabel else "regression"
    return read_labels(numbers, place, task, tuple(names))


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


def _as_whole(cell: str) -> str:
    value = number_of(cell)
    return str(int(value)) if np.isfinite(value) and value == np.floor(value) else cell


def _text_column(table: Table, columns: Sequence[str], text: str | None) -> str | None:
    if text is not None:
        if text not in columns:
            raise UserError(f"{table.file} has no column '{text}' beside the label.", nearest(text, columns))
        return text
    usual = [name for name in columns if name.lower() in USUAL_TEXTS]
    for name in usual or (columns if len(columns) == 1 else []):
        if np.isnan([number_of(cell) for cell in table.column(name)]).mean() > 1 - MOSTLY:
            table.words(name)
            return name
    return None


def _numbers(
    tables: dict[str, Table],
    columns: Sequence[str],
    labels: Labels,
    test_fraction: float,
    max_categories: int,
    place: str,
) -> Splits:
    rows = {split: np.arange(len(table.rows)) for split, table in tables.items()}
    sources = dict(tables)
    if "test" not in tables:
        train = tables["train"]
        numbers = [train.columns.index(name) for name in columns]
        groups = ["\0".join(row[number] for number in numbers) for row in train.rows]
        rows["train"], rows["test"] = cut(labels.values["train"], (test_fraction,), groups=groups)
        if not len(rows["test"]):
            distinct = len(set(groups))
            raise UserError(
                f"{place} has too few rows to cut any off for test: {distinct:,} distinct ones of {len(groups):,}, "
                "and equal rows stay together.",
                "Add rows until each class has two, or a file with the test rows.",
            )
        sources["test"] = train
    features: dict[str, list[np.ndarray]] = {split: [] for split in rows}
    encoded, crowded = [], []
    for name in columns:
        column = Column(name, _categories(tables["train"], name, rows["train"]))
        if len(column.categories) > max_categories:
            crowded.append(f"'{name}' ({column.width:,} different, for example {column.categories[0][:30]!r})")
        encoded.append(column)
        for split in rows if not crowded else ():
            features[split].append(_column(sources[split], column)[rows[split]])
    if crowded:
        raise UserError(
            f"{place}: not numbers, and too many different values to tell apart: {', '.join(crowded)}.",
            'Name the column of texts, leave columns out, or allow more: --data.args \'{"text": …, "ignore": "a,b", '
            '"max_categories": 100}\'.',
        )
    parts = {}
    for split, blocks in features.items():
        values = labels.values["train" if sources[split] is tables["train"] else split]
        origins = sources[split].origins()
        parts[split] = Split(
            np.concatenate(blocks, 1).astype(np.float32),
            values[rows[split]],
            [origins[row] for row in rows[split].tolist()],
        )
    return Splits(
        parts["train"],
        parts["test"],
        parts.get("validation"),
        labels.classes,
        labels.task,
        source=place,
        columns=Columns(tuple(encoded)),
    )


def _categories(table: Table, name: str, rows: np.ndarray) -> tuple[str, ...]:
    """Return a column's categories in the training rows; none if it holds numbers."""
    cells = table.column(name)
    if np.isfinite([number_of(cell) for cell in cells]).mean() > MOSTLY:
        return ()
    cells = table.words(name)
    return tuple(sorted({cells[row] for row in rows.tolist()}))


def _column(table: Table, column: Column) -> np.ndarray:
    """Return a column's numbers (N, 1), or its one-hot categories (N, categories)."""
    if not column.categories:
        return table.numbers(column.name)[:, None]
    one_hot = column.one_hot(table.column(column.name))
    if unknown := int((~one_hot.any(1)).sum()):
        logger.info(
            "%s: %d values of '%s' are not among those of the training rows: all 0", table.file, unknown, column.name
        )
    return one_hot
