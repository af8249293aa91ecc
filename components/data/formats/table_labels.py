"""Labels of a table: columns, and the task that their cells mean."""

import re
from collections.abc import Callable, Sequence

import numpy as np

from torchmill.components.data.formats.labels import Labels, read_labels
from torchmill.components.encoding.class_names import in_order
from torchmill.components.errors import UserError, nearest, shortened
from torchmill.components.reading.tables import MISSING, USUAL_LABELS, Table, nor, number_of, numbers_in

FEW = 20
"""Largest number of different fractions that may be meant as classes."""

MANY, ROWS_OF_A_CLASS = 100, 20
"""More different whole numbers than these, with fewer rows for each on average, are targets of a regression."""

PLAIN = re.compile(r"-?(0|[1-9][0-9]*)(\.0+)?")
"""Whole number without another spelling than with or without a fraction of 0."""

SKEWED = 2.0
"""Skewness of targets, a third standardised moment, from which their logarithm is suggested; that of a normal
distribution is 0, that of an exponential one 2."""


def names_in(text: str | list[str]) -> list[str]:
    """Return names that are separated by commas, or those of a list."""
    if isinstance(text, list):
        return text
    return [name.strip() for name in text.split(",") if name.strip()]


def fault_of(table: Table, work: Callable[[], object]) -> str:
    """Return the message of the error that ``work`` raises about a table; empty if it raises none."""
    try:
        work()
    except UserError as error:
        return error.message.rstrip(".").replace(f"{table.file} {table.unit}", f"{table.file.name} {table.unit}")
    return ""


def label_faults(tables: dict[str, Table], names: Sequence[str], task: str | None, is_log: bool = False) -> list[str]:
    """Return in words the cells without a label, without a number if there have to be some, or without a logarithm.

    Args:
        is_log: the logarithm of the targets is trained.
    """
    faults = []
    for table in tables.values():
        for name in (name for name in names if name in table.columns):
            missing = {""} if _are_names(tables["train"], name, task) else MISSING
            fault = fault_of(table, lambda t=table, n=name, m=missing: t.column(n, m))
            if not fault and task == "regression":
                fault = fault_of(table, lambda t=table, n=name: t.numbers(n))
            if not fault and is_log:
                cells = table.cells(name)
                places = table.places(np.flatnonzero(numbers_in(cells) <= 0).tolist(), cells)
                words = f"in the column '{name}' has no logarithm, since it is not above 0"
                fault = f"{table.file.name} {places[0]} {words}{nor(places[1:])}" if places else ""
            faults += [fault] * bool(fault)
    return faults


def skewed(labels: Labels, names: Sequence[str]) -> list[str]:
    """Return in words which targets above 0 are so skewed that their logarithm may be learned more easily."""
    values = labels.values["train"]
    if labels.task != "regression" or values.min() <= 0:
        return []
    centred = values.astype(np.float64) - values.mean(0, np.float64)
    skewness = (centred**3).mean(0) / (centred**2).mean(0) ** 1.5
    return [
        f"'{name}' is skewed ({value:.1f}) and above 0: --data.args.target_scale log trains on its logarithm"
        for name, value in zip(names, skewness.tolist(), strict=True)
        if value > SKEWED
    ]


def _are_names(table: Table, name: str, task: str | None) -> bool:
    """Return True for a column of labels that are names, among which "none" and "NA" are values."""
    cells = {cell for cell in table.cells(name) if cell.lower() not in MISSING}
    return task in (None, "classification") and not all(np.isfinite(number_of(cell)) for cell in cells)


def label_columns(table: Table, label: str | list[str] | None) -> list[str]:
    if isinstance(label, str) and label in table.columns:
        return [label]
    if label is not None:
        names = names_in(label)
        for name in names or [""]:
            if name not in table.columns:
                raise UserError(f"{table.file} has no column '{name}'.", nearest(name, table.columns))
        return names
    by_lower_case = {name.lower(): name for name in table.columns}
    return [next((by_lower_case[name] for name in USUAL_LABELS if name in by_lower_case), table.columns[-1])]


def labels_of(tables: dict[str, Table], names: Sequence[str], task: str | None, place: str, notes: list[str]) -> Labels:
    """Return the labels, and append guesses about them to ``notes``."""
    if len(names) == 1 and task in (None, "classification"):
        (name,) = names
        are_names = _are_names(tables["train"], name, task)
        cells = {split: table.column(name, {""} if are_names else MISSING) for split, table in tables.items()}
        values = np.array([number_of(cell) for cell in cells["train"]])
        if not np.isfinite(values).any():
            tables["train"].names(name)
        are_whole = np.isfinite(values).all() and (values == np.floor(values)).all()
        if not task and are_whole and are_too_many(len(set(values.tolist())), len(values)):
            notes.append(f"the whole numbers in '{name}' are taken as targets of a regression, since so many differ")
            task = "regression"
        elif task or are_whole or not np.isfinite(values).all():
            return read_labels(_spelled(cells, bool(are_whole), name, task, notes), place, "classification")
        elif (few := len(set(cells["train"]))) <= min(FEW, len(values) / 2):
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


def are_too_many(different: int, rows: int) -> bool:
    """Return whether whole numbers are too many to be classes, since most would have next to no rows."""
    return different > FEW and (different > rows / 2 or (different > MANY and different > rows / ROWS_OF_A_CLASS))


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


def refuse_joined(table: Table, name: str) -> None:
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
