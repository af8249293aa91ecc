"""The columns of a table, and how their cells become a row of numbers; another table is read in the same way."""

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, fields
from functools import cached_property, lru_cache
from itertools import pairwise

import numpy as np

from torchmill.components.encoding.dates import DATE_PARTS, TIME_PARTS, date_parts, iso, seconds_of
from torchmill.components.errors import UserError, nearest
from torchmill.components.state_files import parse_json

FILE = "columns.json"
"""Name of the file in a data set's folder."""

NUMERIC, CATEGORICAL = "numeric", "categorical"
"""Inputs of a model that takes the cells of a table."""

UNKNOWN = "?"
"""Cell of a category that is not known."""


@dataclass(frozen=True)
class Column:
    """A column of numbers, of dates, of texts, or of categories, which are one-hot encoded.

    The raw values of numbers and dates are float64 (N,), nan where a cell has none; dates are Unix times in seconds.
    Those of categories are texts.
    """

    name: str
    categories: tuple[str, ...] = ()
    """Categories in the order of their one-hot numbers; empty for other columns. Cells without a value are ``""``."""
    offset: float = 0.0
    """Number that is subtracted from each cell, in float64, before it becomes float32; of dates in days."""
    median: float | None = None
    """Median of training, which takes the place of gaps; None if gaps are refused."""
    has_gaps: bool = False
    """True if training had gaps: a number more tells where."""
    has_other: bool = False
    """True if rare and unknown categories have a one-hot number of their own, the last one."""
    is_date: bool = False
    day_first: bool | None = None
    """Order of dates such as 03/04/2024; None if all are written unambiguously."""
    has_times: bool = False
    """True if dates have times of the day."""
    ends: tuple[float, ...] = ()
    """Two ends at which numbers are cut, since training had far outliers; empty if it had none."""
    edges: tuple[float, ...] = ()
    """Ends of the pieces of a number, less ``offset``. Each piece is a number more: 0 below it, 1 above, else linear.

    Source: "piecewise linear encoding" in Gorishniy, Rubachev and Babenko, On Embeddings for Numerical Features in
    Tabular Deep Learning (2022).
    """

    @cached_property
    def features(self) -> tuple[str, ...]:
        """Names of the column's numbers."""
        if self.categories:
            names = [*self.categories, *["other"] * self.has_other]
            return tuple(f"{self.name} = {category}" for category in names)
        parts = (*DATE_PARTS, *TIME_PARTS * self.has_times) if self.is_date else ()
        numbers = [f"{self.name}: {part}" for part in parts] or [self.name]
        ends = [f"{edge + self.offset:.15g}" if self.offset else f"{edge:.5g}" for edge in self.edges]
        numbers += [f"{self.name} from {start} to {end}" for start, end in pairwise(ends)]
        return (*numbers, *[f"{self.name} has no value"] * self.has_gaps)

    @property
    def width(self) -> int:
        """Number of numbers that a cell becomes."""
        return len(self.features)

    @property
    def kind(self) -> str:
        """Meaning of a cell, in a word."""
        return "name" if self.categories else "date" if self.is_date else "number"

    def encode(self, raw: np.ndarray) -> np.ndarray:
        """Return raw values as float32 (N, width). An unknown category is "other", or else all 0."""
        if self.categories:
            one_hot = self.one_hot(raw)
            rest = [~one_hot.any(1, keepdims=True)] if self.has_other else []
            return np.concatenate([one_hot, *rest], 1).astype(np.float32)
        gaps = np.isnan(raw)
        filled = raw if self.median is None else np.where(gaps, self.median, raw)
        numbers = date_parts(filled, self.offset, self.has_times) if self.is_date else self._pieces(self._cut(filled))
        return np.concatenate([numbers, gaps[:, None].astype(np.float32)], 1) if self.has_gaps else numbers

    def _cut(self, values: np.ndarray) -> np.ndarray:
        """Return numbers within the column's ends."""
        if not self.ends:
            return values
        low, high = self.ends
        return values.clip(low, high)

    def _pieces(self, values: np.ndarray) -> np.ndarray:
        """Return numbers (N,), less the offset, and how much of each piece they fill: float32 (N, 1 + pieces)."""
        centred = (values - self.offset)[:, None].astype(np.float32)
        if not self.edges:
            return centred
        starts, ends = np.array(self.edges[:-1]), np.array(self.edges[1:])
        share = np.clip((centred.astype(np.float64) - starts) / (ends - starts), 0, 1)
        return np.concatenate([centred, share.astype(np.float32)], 1)

    def raw(self, encoded: np.ndarray) -> np.ndarray:
        """Return raw values that ``encode`` turns into these numbers (N, width)."""
        if self.categories:
            hot = encoded[:, : len(self.categories)].astype(bool)
            known = np.array(self.categories, object)[hot.argmax(1)]
            return np.where(hot.any(1), known, self.unknown)
        if self.is_date:
            values = seconds_of(encoded, self.offset, self.has_times)
        else:
            values = encoded[:, 0].astype(np.float64) + self.offset
        return np.where(encoded[:, -1].astype(bool), np.nan, values) if self.has_gaps else values

    def translated(self, source: "Column", encoded: np.ndarray) -> np.ndarray:
        """Return numbers (N, …) that a column of the same kind has encoded as this column encodes them."""
        if not self.categories:
            return self.encode(source.raw(encoded))
        places = {category: number for number, category in enumerate(source.categories)}
        none = np.zeros((len(encoded), 1), encoded.dtype)
        hot = [encoded[:, [places[name]]] if name in places else none for name in self.categories]
        rest = [1 - np.concatenate(hot, 1).any(1, keepdims=True)] if self.has_other else []
        return np.concatenate([*hot, *rest], 1)

    @property
    def unknown(self) -> str:
        """A text that is no category of this column."""
        text = UNKNOWN
        while text in self.categories:
            text += UNKNOWN
        return text

    @property
    def shown_median(self) -> str:
        """Median as a cell has it."""
        assert self.median is not None
        return iso(self.median) if self.is_date else f"{self.median:.15g}" if self.offset else f"{self.median:.5g}"

    def shown(self, encoded: np.ndarray) -> str:
        """Return the cell that became some numbers (width,)."""
        (value,) = self.raw(encoded[None])
        if self.categories:
            return str(value)
        if np.isnan(value):
            return "no value"
        return iso(value) if self.is_date else f"{value:.15g}" if self.offset else f"{value:.5g}"

    def one_hot(self, cells: Sequence[str] | np.ndarray) -> np.ndarray:
        """Return bool (N, categories). The row of an unknown category is all False."""
        numbers = {category: number for number, category in enumerate(self.categories)}
        at = np.array([numbers.get(cell, -1) for cell in cells], np.int64)
        return at[:, None] == np.arange(len(self.categories))


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
    def of_numbers(self) -> tuple[Column, ...]:
        """Columns of numbers and dates."""
        return tuple(column for column in self.columns if not column.categories)

    @property
    def of_categories(self) -> tuple[Column, ...]:
        """Columns of categories."""
        return tuple(column for column in self.columns if column.categories)

    @property
    def take_gaps(self) -> bool:
        """True if gaps have a meaning in all columns: then an exported model takes the cells themselves."""
        return all(column.categories or column.median is not None for column in self.columns)

    @property
    def category_spans(self) -> dict[str, slice]:
        """Positions of the categories of each column that has some, by name."""
        return {column.name: self.spans[column.name] for column in self.of_categories}

    @cached_property
    def shares(self) -> frozenset[int]:
        """Positions of the numbers that are 0 or 1: categories, weekdays and gaps."""
        starts = {name: span.start for name, span in self.spans.items()}
        return frozenset(
            starts[column.name] + at
            for column in self.columns
            for at in range(column.width)
            if column.categories
            or (column.has_gaps and at == column.width - 1)
            or (column.is_date and DATE_PARTS.index("Monday") <= at < len(DATE_PARTS))
        )

    @cached_property
    def pieces(self) -> frozenset[int]:
        """Positions of the pieces of numbers, which tell nothing that the numbers don't."""
        starts = {name: span.start for name, span in self.spans.items()}
        places = ((starts[column.name] + 1, len(column.edges) - 1) for column in self.columns if column.edges)
        return frozenset(start + piece for start, pieces in places for piece in range(pieces))

    @cached_property
    def spans(self) -> dict[str, slice]:
        """Positions of each column's numbers in a row, by name."""
        ends = np.cumsum([column.width for column in self.columns]).tolist()
        return {column.name: slice(end - column.width, end) for column, end in zip(self.columns, ends, strict=True)}

    def cells(self, row: np.ndarray) -> dict[str, str]:
        """Return the cells that became a row of numbers (F,), by column; "?" for an unknown category."""
        return {column.name: column.shown(row[self.spans[column.name]]) for column in self.columns}

    def decode(self, row: np.ndarray) -> str:
        """Return the cells of a row in words."""
        return ", ".join(f"{name} {cell}" for name, cell in self.cells(row).items())

    def model_inputs(self, rows: np.ndarray) -> dict[str, np.ndarray]:
        """Return the raw values of encoded rows (N, F), as an exported model takes them.

        Numbers and dates are float64 (N, K), and categories are texts (N, C); either is left out if there are none.
        """
        raw = {column.name: column.raw(rows[:, self.spans[column.name]]) for column in self.columns}
        sides = {NUMERIC: self.of_numbers, CATEGORICAL: self.of_categories}
        return {
            side: np.stack([raw[column.name] for column in columns], 1) for side, columns in sides.items() if columns
        }

    def encode(self, inputs: dict[str, np.ndarray]) -> np.ndarray:
        """Return ``model_inputs`` as float32 (N, F)."""
        numbers, categories = (
            iter(inputs.get(NUMERIC, np.empty((0, 0))).T),
            iter(inputs.get(CATEGORICAL, np.empty(0)).T),
        )
        blocks = [column.encode(next(categories if column.categories else numbers)) for column in self.columns]
        return np.concatenate(blocks, 1)

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

        Columns are matched by name. A category that one of them doesn't know is encoded as when a table is read.

        Raises:
            UserError: a column is missing, or holds something else there.
        """
        theirs = {column.name: column for column in source.columns}
        for column in self.columns:
            if column.name not in theirs:
                raise UserError(f"There is no column '{column.name}'.", nearest(column.name, theirs))
            if (here := column.kind) != (there := theirs[column.name].kind):
                raise UserError(f"The column '{column.name}' holds {here}s here, and {there}s there.")

        def translate(rows: np.ndarray) -> np.ndarray:
            blocks = [
                column.translated(theirs[column.name], rows[:, source.spans[column.name]]) for column in self.columns
            ]
            return np.concatenate(blocks, 1).astype(rows.dtype)

        return translate

    def as_json(self) -> str:
        """Return the columns as JSON, without defaults."""
        columns = [
            {
                entry.name: getattr(column, entry.name)
                for entry in fields(column)
                if entry.name == "name" or getattr(column, entry.name) != entry.default
            }
            for column in self.columns
        ]
        return json.dumps(columns, ensure_ascii=False)

    @classmethod
    @lru_cache(8)
    def from_json(cls, text: str) -> "Columns":
        """Parse the output of ``as_json``.

        Raises:
            Damaged: the text is no such output.
        """
        return cls(parse_json(text, tuple[Column, ...]))


def unusual(column: Column, raw: np.ndarray) -> list[str]:
    """Describe raw values of a column (N,) that training did not have, and their replacement."""
    if not column.categories:
        gaps = int(np.isnan(raw).sum()) if not column.has_gaps and column.median is not None else 0
        how = f"in training none was missing; the median {column.shown_median} is taken" if gaps else ""
        return [f"{gaps:,} of {len(raw):,} cells of '{column.name}' have no value: {how}"] if gaps else []
    learned = set(column.categories)
    unknown = [cell for cell in raw.tolist() if cell not in learned]
    if not unknown:
        return []
    how = "other" if column.has_other else "none"
    return [
        f"{len(unknown):,} of {len(raw):,} values of '{column.name}' are no categories that were learned, for example "
        f"{unknown[0]!r}: they count as {how}"
    ]
