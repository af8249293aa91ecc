"""Columns of a table as numbers: their meaning is guessed, and all misfits are reported together."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

import numpy as np

from torchmill.components.encoding.columns import Column
from torchmill.components.errors import UserError, shortened
from torchmill.components.reading.tables import MISSING, Table, number_of, with_sign

MOSTLY = 0.9
"""Share of numbers above which a column's other cells are mistakes; below it, the column holds categories."""

EXACT = 2**53
"""Whole numbers beyond this are no longer told apart by float64."""

LARGEST = float(np.finfo(np.float32).max)

TOO_COARSE = 100
"""Smallest ratio of a column's deviation to float32's steps there; below it, the column is centred."""


@dataclass(frozen=True)
class ColumnGuess:
    """The meaning of a column of inputs."""

    name: str
    is_number: bool
    faults: tuple[str, ...] = ()
    """Cells that don't fit, in words."""
    notes: tuple[str, ...] = ()
    """Guesses in words."""


def guess(tables: Mapping[str, Table], name: str, max_categories: int) -> ColumnGuess:
    """Return the meaning of a column, which the training table decides, and what doesn't fit in all tables."""
    cells = [cell for cell in tables["train"].cells(name) if cell.lower() not in MISSING]
    numbers = np.isfinite([number_of(cell) for cell in cells])
    is_number = bool(len(cells)) and numbers.mean() > MOSTLY
    faults = [f"{table.file.name} {fault}" for table in tables.values() for fault in _misfits(table, name, is_number)]
    notes = []
    if not is_number and not faults:
        all_cells = tables["train"].cells(name)
        kinds = sorted(set(all_cells))
        if len(kinds) > max_categories:
            faults.append(_crowd(name, kinds))
        words = sorted({cell for cell in all_cells if cell.lower() in MISSING})
        notes += [f"{word!r} in the column '{name}' is a category of its own" for word in words]
    return ColumnGuess(name, is_number, tuple(faults), tuple(notes))


def _misfits(table: Table, name: str, is_number: bool) -> Iterable[str]:
    """Yield in words which cells of a column don't fit its meaning."""
    cells = table.cells(name)
    missing = MISSING if is_number else frozenset({""})
    if empty := [line for cell, line in zip(cells, table.lines, strict=True) if cell.lower() in missing]:
        more = f", nor in {len(empty) - 1:,} other lines" if len(empty) > 1 else ""
        yield f"line {empty[0]}: the column '{name}' has no value there{more}"
    present = [(line, cell) for line, cell in zip(table.lines, cells, strict=True) if cell.lower() not in MISSING]
    odd = [(line, cell) for line, cell in present if not np.isfinite(number_of(cell))]
    if odd and (is_number or len(odd) == len(present) or with_sign(odd[0][1])):
        line, cell = odd[0]
        if fault := with_sign(cell) if is_number or all(with_sign(cell) for _, cell in odd) else "":
            yield f"line {line}: '{cell}' in the column '{name}' is a number written with {fault}"
        elif is_number:
            yield f"line {line}: '{cell}' in the column '{name}' is not a number"
    whole = {cell for _, cell in present if re.fullmatch(r"[0-9]{16,}", cell)} if is_number else set()
    if len({float(cell) for cell in whole}) < len({int(cell) for cell in whole}):
        yield (
            f"column '{name}' has whole numbers beyond {EXACT:,}, for example {next(iter(whole))}, which no number "
            "of 64 bits tells apart"
        )


def _crowd(name: str, kinds: Sequence[str]) -> str:
    """Describe a column with too many categories, by an example."""
    looks = ""
    try:
        datetime.fromisoformat(kinds[0])
        looks = ", dates"
    except ValueError:
        if np.mean([len(kind.split()) for kind in kinds]) > 3:
            looks = ", texts"
    return f"'{name}' ({len(kinds):,} different{looks}, for example {kinds[0][:30]!r})"


def refuse(guesses: Sequence[ColumnGuess], others: Sequence[str], place: str) -> None:
    """Refuse a table with columns that don't fit, all of them at once.

    Args:
        others: faults of the labels.

    Raises:
        UserError: there are faults.
    """
    crowded = [fault for each in guesses for fault in each.faults if fault.startswith("'")]
    faults = [*others, *(fault for each in guesses for fault in each.faults if fault not in crowded)]
    if not faults and not crowded:
        return
    remedies = []
    if faults:
        remedies.append("Fill cells in, write numbers plainly as 0.5 and 2000, or leave the rows or columns out")
    if crowded:
        faults.append(f"not numbers, and too many different values to tell apart: {', '.join(crowded)}")
        remedies.append("Name the column of texts, or allow more categories")
    wrong = [each.name for each in guesses if each.faults]
    ignored = f': --data.args \'{{"ignore": "{",".join(wrong)}", "text": …, "max_categories": 100}}\'' if wrong else ""
    raise UserError(f"{place}: {'; '.join(faults)}.", f"{'. '.join(remedies)}{ignored}.")


def column_of(table: Table, guess: ColumnGuess, rows: np.ndarray) -> Column:
    """Return the column that the training rows of a table make, with its categories or its offset."""
    if guess.is_number:
        return Column(guess.name, offset=offset_of(table.numbers(guess.name)[rows]))
    cells = table.cells(guess.name)
    return Column(guess.name, tuple(sorted({cells[row] for row in rows.tolist()})))


def offset_of(values: np.ndarray) -> float:
    """Return the whole number to subtract before values become float32; 0 unless float32 would merge them.

    Unix times, for example, are 128 seconds apart in float32.
    """
    largest = float(np.abs(values).max(initial=0))
    if largest > LARGEST:
        return 0.0
    deviation = float(values.std()) if len(values) else 0.0
    if not deviation or float(np.spacing(np.float32(largest))) * TOO_COARSE < deviation:
        return 0.0
    middle = float(np.round(values.mean()))
    return middle if float(np.abs(values - middle).max()) < largest else 0.0


def notes_on(columns: Sequence[Column]) -> list[str]:
    """Return in words which columns were centred."""
    centred = [f"'{column.name}' by {column.offset:,.0f}" for column in columns if column.offset]
    return [f"centred, since float32 would merge their values: {shortened(centred)}"] if centred else []
