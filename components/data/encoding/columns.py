"""The columns of a table: what the numbers of a row were made of, so that another table is read in the same way."""

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from torchmill.components.errors import UserError, nearest


@dataclass(frozen=True)
class Column:
    name: str
    categories: tuple[str, ...] = ()
    """Each has a number of its own, 0 or 1, in this order. None where the column holds numbers, or texts."""

    @property
    def width(self) -> int:
        return len(self.categories) or 1

    @property
    def features(self) -> list[str]:
        """Names of its numbers."""
        return [f"{self.name} = {category}" for category in self.categories] or [self.name]

    def ones(self, cells: Sequence[str]) -> np.ndarray:
        """Give 0 or 1 for each category, bool (N, categories). What is none of them is all 0."""
        return np.asarray(cells)[:, None] == np.asarray(self.categories)


@dataclass(frozen=True)
class Columns:
    """Those of a data set, in the order of its numbers; of a data set of texts the one with the texts."""

    columns: tuple[Column, ...]

    @classmethod
    def called(cls, names: Iterable[str]) -> "Columns":
        """Give columns of numbers."""
        return cls(tuple(map(Column, names)))

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(column.name for column in self.columns)

    @property
    def features(self) -> tuple[str, ...]:
        """Names of the numbers, as many as a row has."""
        return tuple(name for column in self.columns for name in column.features)

    @cached_property
    def spans(self) -> dict[str, slice]:
        """Where a column's numbers stand in a row, by name."""
        ends = np.cumsum([column.width for column in self.columns]).tolist()
        return {one.name: slice(end - one.width, end) for one, end in zip(self.columns, ends, strict=True)}

    def cells(self, row: np.ndarray) -> dict[str, str]:
        """Give what the numbers (F,) were made of, by column; "?" of a category that is not known."""
        cells = {}
        for column, span in zip(self.columns, self.spans.values(), strict=True):
            held = [kind for kind, one in zip(column.categories, row[span].tolist(), strict=False) if one]
            cells[column.name] = (held or ["?"])[0] if column.categories else f"{row[span][0]:.5g}"
        return cells

    def decode(self, row: np.ndarray) -> str:
        """Give the cells of a row, for people."""
        return ", ".join(f"{name} {cell}" for name, cell in self.cells(row).items())

    def unknown(self, other: "Columns") -> dict[str, list[str]]:
        """Give the categories of ``other``, by the columns that both have, which these do not know."""
        ours = {column.name: set(column.categories) for column in self.columns}
        both = [one for one in other.columns if one.name in ours]
        found = {one.name: [kind for kind in one.categories if kind not in ours[one.name]] for one in both}
        return {name: kinds for name, kinds in found.items() if kinds}

    def translation(self, other: "Columns") -> Callable[[np.ndarray], np.ndarray]:
        """Say how rows that were read by ``other`` columns, (N, F), become what these would have read.

        What is missing is looked for by name; a category that these do not know is all 0, as in a table that is read.

        Raises:
            UserError: a column is missing, or holds names here and numbers there.
        """
        theirs = {column.name: column for column in other.columns}
        places: list[int] = []  # of our numbers in their rows; -1 where they have none
        for column in self.columns:
            if column.name not in theirs:
                raise UserError(f"There is no column '{column.name}'.", nearest(column.name, theirs))
            held, start = theirs[column.name], other.spans[column.name].start
            if bool(held.categories) != bool(column.categories):
                names, numbers = ("there", "here") if held.categories else ("here", "there")
                raise UserError(f"The column '{column.name}' holds names {names}, and numbers {numbers}.")
            at = {kind: start + number for number, kind in enumerate(held.categories)}
            places += [at.get(kind, -1) for kind in column.categories] or [start]
        known = np.array(places) >= 0
        return lambda rows: np.where(known, rows[:, places], rows.dtype.type(0))

    def as_json(self) -> str:
        held = [
            {"name": one.name, **({"categories": one.categories} if one.categories else {})} for one in self.columns
        ]
        return json.dumps(held, ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str) -> "Columns":
        """Read what ``as_json`` gives.

        Raises:
            ValueError, KeyError, TypeError: it is something else.
        """
        held = json.loads(text)
        return cls(tuple(Column(str(one["name"]), tuple(map(str, one.get("categories", ())))) for one in held))
