"""The columns of a table, and how their cells become a row of numbers; another table is read in the same way."""

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from torchmill.components.errors import UserError, nearest
from torchmill.components.state_files import parse_json

FILE = "columns.json"
"""Name of the file in a data set's folder."""


@dataclass(frozen=True)
class Column:
    """A column of numbers, of texts, or of categories, which are one-hot encoded."""

    name: str
    categories: tuple[str, ...] = ()
    """Categories in the order of their one-hot numbers; empty for a column of numbers or texts."""
    offset: float = 0.0
    """Number that is subtracted from each cell, in float64, before it becomes float32."""

    @property
    def width(self) -> int:
        """Number of numbers that a cell becomes."""
        return len(self.categories) or 1

    @property
    def features(self) -> list[str]:
        """Names of the column's numbers."""
        return [f"{self.name} = {category}" for category in self.categories] or [self.name]

    def shown(self, number: float) -> str:
        """Return a stored number as its cell was."""
        return f"{number + self.offset:.15g}" if self.offset else f"{number:.5g}"

    def one_hot(self, cells: Sequence[str]) -> np.ndarray:
        """Return bool (N, categories). The row of an unknown category is all False."""
        return np.asarray(cells)[:, None] == np.asarray(self.categories)


@dataclass(frozen=True)
class Columns:
    """The columns of a data set, in the order of its numbers; for a data set of texts, the column with the texts."""

    columns: tuple[Column, ...]

    @classmethod
    def called(cls, names: Iterable[str]) -> "Columns":
        """Return columns of numbers with these names."""
        return cls(tuple(map(Column, names)))

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the columns."""
        return tuple(column.name for column in self.columns)

    @property
    def features(self) -> tuple[str, ...]:
        """Names of a row's numbers."""
        return tuple(name for column in self.columns for name in column.features)

    @property
    def category_spans(self) -> dict[str, slice]:
        """Positions of the categories of each column that has some, by name."""
        return {column.name: self.spans[column.name] for column in self.columns if column.categories}

    @cached_property
    def spans(self) -> dict[str, slice]:
        """Positions of each column's numbers in a row, by name."""
        ends = np.cumsum([column.width for column in self.columns]).tolist()
        return {column.name: slice(end - column.width, end) for column, end in zip(self.columns, ends, strict=True)}

    def cells(self, row: np.ndarray) -> dict[str, str]:
        """Return the cells that became a row of numbers (F,), by column; "?" for an unknown category."""
        cells = {}
        for column, span in zip(self.columns, self.spans.values(), strict=True):
            hot = [category for category, number in zip(column.categories, row[span].tolist(), strict=False) if number]
            cells[column.name] = (hot or ["?"])[0] if column.categories else column.shown(float(row[span][0]))
        return cells

    def decode(self, row: np.ndarray) -> str:
        """Return the cells of a row in words."""
        return ", ".join(f"{name} {cell}" for name, cell in self.cells(row).items())

    def unknown(self, source: "Columns") -> dict[str, list[str]]:
        """Return the categories of ``source`` that these columns don't know, by the columns that both have."""
        ours = {column.name: set(column.categories) for column in self.columns}
        categories = {
            column.name: [category for category in column.categories if category not in ours[column.name]]
            for column in source.columns
            if column.name in ours
        }
        return {name: unknown for name, unknown in categories.items() if unknown}

    def translation(self, source: "Columns") -> Callable[[np.ndarray], np.ndarray]:
        """Return a function from rows that ``source`` has encoded, (N, F), to rows of these columns.

        Columns are matched by name. An unknown category becomes all 0, as it does when a table is read.

        Raises:
            UserError: a column is missing, or has categories here and numbers there.
        """
        theirs = {column.name: column for column in source.columns}
        positions: list[int] = []  # of our numbers in their rows; -1 for an unknown category
        shifts: list[float] = []
        for column in self.columns:
            if column.name not in theirs:
                raise UserError(f"There is no column '{column.name}'.", nearest(column.name, theirs))
            match, start = theirs[column.name], source.spans[column.name].start
            if bool(match.categories) != bool(column.categories):
                names, numbers = ("there", "here") if match.categories else ("here", "there")
                raise UserError(f"The column '{column.name}' holds names {names}, and numbers {numbers}.")
            position = {category: start + number for number, category in enumerate(match.categories)}
            positions += [position.get(category, -1) for category in column.categories] or [start]
            shifts += [0.0] * len(column.categories) or [match.offset - column.offset]
        has_source, shift = np.array(positions) >= 0, np.array(shifts)
        if not shift.any():
            return lambda rows: np.where(has_source, rows[:, positions], rows.dtype.type(0))
        return lambda rows: np.where(has_source, rows[:, positions] + shift, 0).astype(rows.dtype)

    def as_json(self) -> str:
        """Return the columns as JSON."""
        columns = [
            {"name": column.name}
            | ({"categories": column.categories} if column.categories else {})
            | ({"offset": column.offset} if column.offset else {})
            for column in self.columns
        ]
        return json.dumps(columns, ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str) -> "Columns":
        """Parse the output of ``as_json``.

        Raises:
            Damaged: the text is no such output.
        """
        return cls(parse_json(text, tuple[Column, ...]))
