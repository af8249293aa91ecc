"""Tables: text files with commas, semicolons or tabs between the cells and names in the first line; and Parquet."""

import csv
import io
import re
import unicodedata
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from torchmill.components.errors import UserError, nearest, shortened
from torchmill.components.reading.texts import decoded, lines

USUAL_LABELS = ("label", "target", "class", "y")
USUAL_TEXTS = ("text", "sentence", "review")
"""Names of columns, in lower case, that are used if the user names none."""

MISSING = frozenset({"", "na", "n/a", "nan", "-nan", "nat", "null", "none", "?", "#n/a", "#na", "<na>", "#n/a n/a"})
"""Cells, in lower case, that hold no value."""

PLACES_SHOWN = 5
"""Cells of a column that an error names."""

LARGEST = float(np.finfo(np.float32).max)

LONGEST_CELL = 10_000_000
"""Longest cell in characters."""

NO_DELIMITER = "\0"
"""Delimiter of a table with one column: a character that no text has."""

WITH_COMMA = re.compile(r"[+-]?\d+(,\d+)+(\.\d+)?|[+-]?\d{1,3}(\.\d{3})*,\d+")
"""Number with a decimal comma, or with commas between thousands."""

WITH_UNIT = re.compile(r"[+-]?[€$£¥₹]?\s?[+-]?\d[\d.,]*\s?[%‰€$£¥₹]?")
"""Number with a sign of a currency or of a share."""

MINUS = "\u2212"
"""Minus sign of typesetters."""


@dataclass(frozen=True, eq=False)
class Table:
    """A table whose cells are texts."""

    file: Path
    columns: tuple[str, ...]
    rows: list[list[str]]
    lines: list[int]
    """Line of each row in the file, from 1; of Parquet its number."""
    types: Mapping[str, str] = field(default_factory=dict)
    """Types of columns in the file's schema: number, date or text. A text file has none."""
    unit: str = "line"
    """Word for a place in the file: line or row."""

    def cells(self, name: str) -> list[str]:
        """Return the cells of a column, empty ones too.

        Raises:
            UserError: the column is missing.
        """
        if name not in self.columns:
            raise UserError(f"{self.file} has no column '{name}'.", nearest(name, self.columns))
        number = self.columns.index(name)
        return [row[number].strip() for row in self.rows]

    def column(self, name: str, missing: Collection[str] = MISSING) -> list[str]:
        """Return the cells of a column.

        Args:
            missing: cells, in lower case, that hold no value.

        Raises:
            UserError: the column is missing, or a cell has no value.
        """
        cells = self.cells(name)
        if gaps := [line for cell, line in zip(cells, self.lines, strict=True) if cell.lower() in missing]:
            raise UserError(
                f"{self.file} {self.no_value(name, gaps)}.", "Fill it in, or leave these rows or this column out."
            )
        return cells

    def no_value(self, name: str, lines: Sequence[int]) -> str:
        """Return in words that some lines have no value in a column."""
        more = f", nor in {shortened([f'{line:,}' for line in lines[1:]], PLACES_SHOWN - 1)}" if lines[1:] else ""
        return f"{self.unit} {lines[0]}: the column '{name}' has no value there{more}"

    def names(self, name: str) -> list[str]:
        """Return the cells of a column of names or texts, among which "none" and "NA" are values.

        Raises:
            UserError: as ``column``, or all cells are numbers with a comma or a unit.
        """
        cells = self.column(name, missing={""})
        odd = [pair for pair in zip(self.lines, cells, strict=True) if not np.isfinite(number_of(pair[1]))]
        if odd and all(with_sign(cell) for _, cell in odd):
            line, cell = odd[0]
            raise UserError(
                f"{self.file} {self.unit} {line}: '{cell}' in the column '{name}' is a number written with "
                f"{with_sign(cell)}.",
                "Write fractions with a point, nothing between thousands, and no unit: 0.5 and 2000.",
            )
        return cells

    def origins(self) -> list[str]:
        """Return each row's name for people: its line in the file."""
        return [f"{self.file.name} {self.unit} {line}" for line in self.lines]

    def numbers(self, name: str) -> np.ndarray:
        """Return a column as float64.

        Raises:
            UserError: as ``column``, or a cell is not a finite number.
        """
        cells = self.column(name)
        values = np.array([number_of(cell) for cell in cells])
        if rows := np.flatnonzero(~np.isfinite(values)).tolist():
            places = self.places(rows, cells)
            raise UserError(f"{self.file} {places[0]} in the column '{name}' is not a number{nor(places[1:])}.")
        return values

    def places(self, rows: Sequence[int], cells: Sequence[str]) -> list[str]:
        """Return rows with their cells of a column, in words."""
        return [f"{self.unit} {self.lines[row]}: '{cells[row]}'" for row in rows]


def nor(places: Sequence[str]) -> str:
    """Return in words that other cells are no better than the first; empty without any."""
    return f" (nor is {shortened(places, PLACES_SHOWN - 1)})" if places else ""


def numbers_in(cells: Sequence[str]) -> np.ndarray:
    """Return the numbers in cells, float64 (N,): nan without a value, infinite if float32 has no such number."""
    values = np.array([number_of(cell) for cell in cells], np.float64)
    odd = np.flatnonzero(~(np.abs(values) <= LARGEST)).tolist()
    values[odd] = [np.nan if cells[row].lower() in MISSING else np.inf for row in odd]
    return values


def number_of(cell: str) -> float:
    """Return the number in a cell; NaN if it holds none."""
    if MINUS in cell:
        cell = cell.replace(MINUS, "-")
    try:
        return float(cell) if "_" not in cell else float("nan")  # Python alone reads 1_000 as a number
    except ValueError:
        return float("nan")


def with_sign(cell: str) -> str:
    """Return in words the sign that keeps a cell from being a number; empty if it isn't nearly one."""
    cell = cell.replace(MINUS, "-")
    if WITH_COMMA.fullmatch(cell):
        return "a comma"
    if WITH_UNIT.fullmatch(cell) and not np.isfinite(number_of(cell)):
        return next((sign for sign in cell if sign in "%‰€$£¥₹"), "")
    return ""


def read_table(file: Path, single: bool = False) -> Table:
    """Read a table; its characters are composed (NFC), so that equal names are equal.

    Args:
        single: allow a table of one column, whose cells need no quotes around commas.

    Raises:
        UserError: the file is empty, not UTF-8, ragged, or lacks names of columns. The message names the line.
    """
    try:
        content = file.read_bytes()
    except OSError as error:
        siblings = [path.name for path in file.parent.iterdir()] if file.parent.is_dir() else []
        raise UserError(f"Cannot read {file}: {error.strerror}.", nearest(file.name, siblings)) from None
    text = unicodedata.normalize("NFC", decoded(content, file))
    first = next((line for line in lines(text) if line.strip()), "")
    if not first:
        raise UserError(f"{file} is empty.", "Write names of columns in the first line, then a row in each line.")
    before = csv.field_size_limit(LONGEST_CELL)
    try:
        numbers, rows = _rows(text, _delimiter(file, first, single), file)
    finally:
        csv.field_size_limit(before)
    return _checked(file, numbers, rows)


def _delimiter(file: Path, first: str, single: bool) -> str:
    if file.suffix.lower() == ".tsv":
        return "\t"
    unquoted = "".join(first.split('"')[::2])
    delimiter = max(",;\t", key=unquoted.count)
    if not unquoted.count(delimiter):
        if single:
            return NO_DELIMITER
        raise UserError(
            f"{file} has one column alone: '{first[:60]}'.", "Put commas, semicolons or tabs between the cells."
        )
    return delimiter


def _rows(text: str, delimiter: str, file: Path) -> tuple[list[int], list[list[str]]]:
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    numbers, rows, start = [], [], 1
    try:
        for row in reader:
            if any(cell.strip() for cell in row) or (row and delimiter == NO_DELIMITER):
                numbers.append(start)
                rows.append(row)
            start = reader.line_num + 1
    except csv.Error as error:
        raise UserError(f"{file} line {start} can't be read: {error}.", "Is a quotation mark missing?") from None
    return numbers, rows


def _data_among(names: list[str]) -> str:
    """Return the numbers in a first line that can't be names; numbers that count up, as pixels or years do, can."""
    numbers = [name for name in names if np.isfinite(number_of(name))]
    steps = set(np.diff([number_of(name) for name in numbers]).tolist())
    counts_up = all(name.isdecimal() for name in numbers) and len(steps) == 1 and min(steps) > 0
    return "" if counts_up else " and ".join(f"'{name}'" for name in numbers[:2])


def _checked(file: Path, lines: list[int], rows: list[list[str]]) -> Table:
    names = [name.strip() for name in rows[0]] if rows else []
    if not any(names):
        raise UserError(f"{file} has no names of columns in its first line.", "Put names in the first line.")
    if all(np.isfinite(number_of(name)) for name in names):
        raise UserError(f"{file} begins with numbers, and not with names of columns.", "Put names in the first line.")
    if numbers := _data_among(names):
        raise UserError(
            f"{file} begins with {numbers}, which look like a row and not like names of columns.",
            "Put names in the first line.",
        )
    for number, name in enumerate(names):
        if name in names[:number] and name:
            raise UserError(f"{file} has two columns called '{name}'.", "Rename one of them.")
        if not name and number:
            raise UserError(f"{file}: column {number + 1} has no name.")
    for row, line in zip(rows, lines, strict=True):
        if len(row) != len(names):
            raise UserError(
                f"{file} line {line} has {len(row)} cells, and the first line {len(names)}.",
                "Quote cells that hold the character between cells.",
            )
    if len(rows) < 2:
        raise UserError(f"{file} has names of columns, and no rows.")
    if not names[0]:  # row numbers, which pandas writes
        names, rows = names[1:], [row[1:] for row in rows]
    return Table(file, tuple(names), rows[1:], lines[1:])
