"""The times of a series: they are read, checked for order and regular steps, and tell the length of a season."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np

from torchmill.components.errors import UserError
from torchmill.components.reading.dates import orders, seconds_in
from torchmill.components.reading.tables import Table, number_of

MONTH = re.compile(r"(\d{4})-(\d{2})")
QUARTER = re.compile(r"(\d{4})[- ]?Q([1-4])", re.IGNORECASE)

MINUTE, HOUR, DAY = 60, 3600, 86_400
WORDS = {1: "second", MINUTE: "minute", HOUR: "hour", DAY: "day", 7 * DAY: "week"}
SEASONS = {DAY: 7, 7 * DAY: 52}
"""Steps of a season by the length of a step, in seconds; shorter steps have the season of a day."""

YEAR = 12


@dataclass(frozen=True)
class TimeAxis:
    """Regular steps of time."""

    step: str
    """Length of a step in words, for example ``1 hour``; empty if rows alone are counted."""
    season: int
    """Usual season in steps, for example 24 of hours; 1 if steps have none."""
    notes: tuple[str, ...] = ()


def time_axis(table: Table, column: str) -> TimeAxis:
    """Return the steps of a column of times.

    Raises:
        UserError: a cell is no time, or times don't increase.
    """
    cells = table.column(column)
    if all(np.isfinite(number_of(cell)) for cell in cells):
        values = np.array([number_of(cell) for cell in cells])
        _check_order(values, cells, table, column)
        steps = np.diff(values)
        notes = _irregular(steps, float(np.median(steps)), f"{np.median(steps):g}", cells, table)
        return TimeAxis("", 1, notes)
    moments = _moments(cells, table, column)
    values = np.array([moment.timestamp() for moment in moments])
    _check_order(values, cells, table, column)
    if axis := _months(moments):
        return axis
    steps = np.diff(values)
    usual = float(np.median(steps))
    words = _in_words(usual)
    return TimeAxis(words, _season(usual), _irregular(steps, usual, words, cells, table))


def _moments(cells: Sequence[str], table: Table, column: str) -> list[datetime]:
    moments, faults, day_orders = [], [], orders(cells)
    day_first = next(iter(day_orders)) if len(day_orders) == 1 else None
    for cell, line in zip(cells, table.lines, strict=True):
        if moment := _moment(cell, day_first):
            moments.append(moment)
        else:
            faults.append(f"line {line}: '{cell}'")
    if faults:
        raise UserError(
            f"{table.file}: {len(faults):,} of {len(cells):,} cells of the column '{column}' are no times, "
            f"{'; '.join(faults[:3])}.",
            "Write 2026-01-31, 2026-01-31 13:00, 2026-01 or 2026-Q1; or name another column: --data.args.time",
        )
    return moments


def _moment(cell: str, day_first: bool | None) -> datetime | None:
    """Return the time in a cell, with its fraction of a second; None if it is no time, or its order is not told."""
    try:
        moment = datetime.fromisoformat(_whole(cell))
        return moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    except ValueError:
        seconds = seconds_in(cell, day_first)
        return None if seconds is None else datetime.fromtimestamp(seconds, UTC)


def _whole(cell: str) -> str:
    """Return a month or a quarter as its first day."""
    if match := MONTH.fullmatch(cell):
        return f"{match[1]}-{match[2]}-01"
    if match := QUARTER.fullmatch(cell):
        return f"{match[1]}-{3 * int(match[2]) - 2:02}-01"
    return cell


def _check_order(values: np.ndarray, cells: Sequence[str], table: Table, column: str) -> None:
    if len(values) < 3:
        raise UserError(f"{table.file} has {len(values)} rows: no series.")
    if backward := np.flatnonzero(np.diff(values) <= 0).tolist():
        row = backward[0] + 1
        how = "is the same time as" if values[row] == values[row - 1] else "comes before"
        more = f"; {len(backward) - 1:,} more such rows" * (len(backward) > 1)
        raise UserError(
            f"{table.file} line {table.lines[row]}: in the column '{column}' {cells[row]} {how} {cells[row - 1]}, "
            f"the time of the row above{more}.",
            "Sort the rows by time, with one row for each time; several series need a file each.",
        )


def _months(moments: Sequence[datetime]) -> TimeAxis | None:
    """Return steps of whole months; None if they are of another kind."""
    if len({(moment.day, moment.time()) for moment in moments}) > 1:
        return None
    steps = {int(step) for step in np.diff([YEAR * moment.year + moment.month for moment in moments])}
    if len(steps) > 1:
        return None
    (step,) = steps
    return TimeAxis(f"{step} month{'s' * (step > 1)}", YEAR // step if YEAR % step == 0 else 1)


def _season(step: float) -> int:
    if step < DAY:
        return round(DAY / step) if DAY % step == 0 else 1
    return SEASONS.get(int(step), 1)


def _in_words(seconds: float) -> str:
    unit = next((unit for unit in sorted(WORDS, reverse=True) if seconds >= unit and seconds % unit == 0), 1)
    number = seconds / unit
    return f"{number:g} {WORDS[unit]}{'s' * (number != 1)}"


def _irregular(steps: np.ndarray, usual: float, words: str, cells: Sequence[str], table: Table) -> tuple[str, ...]:
    """Return a note on steps of another length, if there are some."""
    odd = np.flatnonzero(np.abs(steps - usual) > 1e-6 * usual).tolist()
    if not odd:
        return ()
    place = f"the first after {cells[odd[0]]} (line {table.lines[odd[0]]})"
    return (f"{len(odd):,} of {len(steps):,} steps are not of {words}, {place}: rows are taken as equal steps",)
