"""Tables in text files: comma, semicolon or tab between the cells, names of columns in the first line."""

import csv
import io
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from torchmill.components.data.formats.texts import decoded
from torchmill.components.errors import UserError, nearest

USUAL_LABELS = ("label", "target", "class", "y")
USUAL_TEXTS = ("text", "sentence", "review")
"""Names of columns, in lower case, that are the ones meant where nobody names any."""
MISSING = frozenset({"", "na", "n/a", "nan", "null", "none", "?"})
LONGEST_CELL = 10_000_000
WITH_COMMA = re.compile(r"[+-]?\d+(,\d+)+(\.\d+)?|[+-]?\d{1,3}(\.\d{3})*,\d+")
"""A decimal comma, or commas between thousands."""


@dataclass(frozen=True, eq=False)
class Table:
    file: Path
    columns: tuple[str, ...]
    rows: list[list[str]]
    lines: list[int]
    """The line of each row in the file, from 1."""

    def cells(self, name: str) -> list[str]:
        """Give the cells of a column, empty ones too.

        Raises:
            UserError: there is no such column.
        """
        if name not in self.columns:
            raise UserError(f"{self.file} has no column '{name}'.", nearest(name, self.columns))
        number = self.columns.index(name)
        return [row[number].strip() for row in self.rows]

    def column(self, name: str) -> list[str]:
        """Give the cells of a column.

        Raises:
            UserError: there is no such column, or a cell is empty.
        """
        cells = self.cells(name)
        missing = [line for cell, line in zip(cells, self.lines, strict=True) if cell.lower() in MISSING]
        if missing:
            raise UserError(
                f"{self.file} line {missing[0]}: the column '{name}' has no value there"
                + (f", nor in {len(missing) - 1:,} other lines." if len(missing) > 1 else "."),
                "Fill it in, or leave these rows or this column out.",
            )
        return cells

    def words(self, name: str) -> list[str]:
        """Give the cells of a column that holds no numbers.

        Raises:
            UserError: as ``column``, or they are numbers all the same, written with a comma.
        """
        cells = self.column(name)
        if cells and all(WITH_COMMA.fullmatch(cell) or np.isfinite(number_of(cell)) for cell in cells):
            at, cell = next((at, cell) for at, cell in enumerate(cells) if WITH_COMMA.fullmatch(cell))
            raise UserError(
                f"{self.file} line {self.lines[at]}: '{cell}' in the column '{name}' is a number written with a comma.",
                "Write fractions with a point, and nothing between thousands: 0.5 and 2000.",
            )
        return cells

    def origins(self) -> list[str]:
        """Give what people know each row by: its line in the file."""
        return [f"{self.file.name} line {line}" for line in self.lines]

    def numbers(self, name: str) -> np.ndarray:
        """Give a column as float64.

        Raises:
            UserError: as ``column``, or a cell is no finite number.
        """
        cells = self.column(name)
        values = np.array([number_of(cell) for cell in cells])
        if wrong := np.flatnonzero(~np.isfinite(values)).tolist():
            raise UserError(
                f"{self.file} line {self.lines[wrong[0]]}: '{cells[wrong[0]]}' in the column '{name}' is not a number."
            )
        return values


def number_of(cell: str) -> float:
    """The number in a cell; NaN where it is none."""
    try:
        return float(cell) if "_" not in cell else float("nan")  # Python reads 1_000, nobody else does
    except ValueError:
        return float("nan")


def read_table(file: Path) -> Table:
    """Read a table.

    Raises:
        UserError: with the line where it is wrong: not UTF-8, ragged, without names of columns, or empty.
    """
    try:
        content = file.read_bytes()
    except OSError as error:
        beside = [other.name for other in file.parent.iterdir()] if file.parent.is_dir() else []
        raise UserError(f"Cannot read {file}: {error.strerror}.", nearest(file.name, beside)) from None
    text = decoded(content, file)
    first = next((line for line in text.splitlines() if line.strip()), "")
    if not first:
        raise UserError(f"{file} is empty.", "Names of columns in the first line, then a row in each.")
    before = csv.field_size_limit(LONGEST_CELL)
    try:
        lines, rows = _rows(text, _delimiter(file, first), file)
    finally:
        csv.field_size_limit(before)
    return _checked(file, lines, rows)


def _delimiter(file: Path, first: str) -> str:
    if file.suffix.lower() == ".tsv":
        return "\t"
    unquoted = "".join(first.split('"')[::2])
    found = max(",;\t", key=unquoted.count)
    if not unquoted.count(found):
        raise UserError(
            f"{file} has one column alone: '{first[:60]}'.", "Put commas, semicolons or tabs between the cells."
        )
    return found


def _rows(text: str, delimiter: str, file: Path) -> tuple[list[int], list[list[str]]]:
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    lines, rows, begun = [], [], 1
    try:
        for row in reader:
            if any(cell.strip() for cell in row):
                lines.append(begun)
                rows.append(row)
            begun = reader.line_num + 1
    except csv.Error as error:
        raise UserError(f"{file} line {begun} can't be read: {error}.", "Is there a quotation mark too few?") from None
    return lines, rows


def _data_among(names: list[str]) -> str:
    """Give the numbers in a first line that can't be names; those that count up, as pixels or years do, can."""
    found = [name for name in names if np.isfinite(number_of(name))]
    steps = set(np.diff([number_of(name) for name in found]).tolist())
    counts_up = all(name.isdecimal() for name in found) and len(steps) == 1 and min(steps) > 0
    return "" if counts_up else " and ".join(f"'{name}'" for name in found[:2])


def _checked(file: Path, lines: list[int], rows: list[list[str]]) -> Table:
    names = [name.strip() for name in rows[0]]
    if all(np.isfinite(number_of(name)) for name in names):
        raise UserError(f"{file} begins with numbers, and not with names of columns.", "Put names in the first line.")
    if told := _data_among(names):
        raise UserError(
            f"{file} begins with {told}, which look like a row and not like names of columns.",
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
    if not names[0]:  # the numbers of rows that pandas writes
        names, rows = names[1:], [row[1:] for row in rows]
    return Table(file, tuple(names), rows[1:], lines[1:])
