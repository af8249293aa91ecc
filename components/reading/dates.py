"""Dates and times in cells: ISO 8601, and orders of day and month that the cells themselves tell."""

import re
from collections.abc import Iterable
from datetime import UTC, datetime

import numpy as np

from torchmill.components.reading.tables import MISSING

ISO_DATE = re.compile(r"(\d{4})([-/.])(\d{1,2})\2(\d{1,2})(?:[T ]+(.+))?")
OTHER_ORDER = re.compile(r"(\d{1,2})([-/.])(\d{1,2})\2(\d{4})(?:[T ,]+(.+))?")
"""Day and month in either order, then the year."""
WITH_MONTH = re.compile(r"(?:\d{1,2}\.?[ -][A-Za-z]{3,9}|[A-Za-z]{3,9}\.? \d{1,2}),?[ -]\d{4}")
MONTH_FORMATS = ("%d %b %Y", "%d %B %Y", "%b %d %Y", "%B %d %Y")


def seconds_in(cell: str, day_first: bool | None = None) -> float | None:
    """Return the Unix time in a cell, in whole seconds; None if it holds no date.

    A time without a zone counts as UTC. 20240131 is a number.

    Args:
        day_first: order of dates such as 03/04/2024; None takes none but those with a day above 12.

    Example:
        >>> seconds_in("1970-01-02")
        86400.0
    """
    if match := ISO_DATE.fullmatch(cell):
        year, _, month, day, time = match.groups()
    elif match := OTHER_ORDER.fullmatch(cell):
        first, _, second, year, time = match.groups()
        if day_first is None and int(first) <= 12 and int(second) <= 12 and first != second:
            return None
        is_day_first = int(first) > 12 if day_first is None else day_first
        day, month = (first, second) if is_day_first else (second, first)
    elif WITH_MONTH.fullmatch(cell):
        return _with_month(cell)
    else:
        return None
    try:
        moment = datetime.fromisoformat(f"{year}-{int(month):02}-{int(day):02}" + (f"T{time}" if time else ""))
    except ValueError:
        return None
    moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return float(moment.timestamp() // 1)


def _with_month(cell: str) -> float | None:
    plain = " ".join(re.sub(r"[.,-]", " ", cell).split())
    for order in MONTH_FORMATS:
        try:
            return datetime.strptime(plain, order).replace(tzinfo=UTC).timestamp()
        except ValueError:
            continue
    return None


def looks_like_date(cell: str) -> bool:
    """Return whether a cell is written as a date, in whatever order."""
    return bool(ISO_DATE.fullmatch(cell) or OTHER_ORDER.fullmatch(cell) or WITH_MONTH.fullmatch(cell))


def orders(cells: Iterable[str]) -> set[bool]:
    """Return which orders dates such as 13/04/2024 tell: True for the day first, False for the month first.

    Both mean that the cells contradict each other, and an empty set that all can be read either way.
    """
    told = set()
    for cell in cells:
        if match := OTHER_ORDER.fullmatch(cell):
            first, second = int(match[1]), int(match[3])
            if first > 12 >= second:
                told.add(True)
            elif second > 12 >= first:
                told.add(False)
    return told


def readings(cell: str) -> tuple[str, str]:
    """Return a date such as 03/04/2024 in both readings, the day first and the month first, as ISO 8601."""
    match = OTHER_ORDER.fullmatch(cell)
    assert match
    first, second, year = int(match[1]), int(match[3]), match[4]
    return f"{year}-{second:02}-{first:02}", f"{year}-{first:02}-{second:02}"


def needs_order(cell: str) -> bool:
    """Return whether day and month of a cell stand in an order that only other cells can tell."""
    return bool(OTHER_ORDER.fullmatch(cell))


def dates_in(cells: Iterable[str], day_first: bool | None = None) -> np.ndarray:
    """Return the Unix times in cells, float64 (N,): nan for a cell without a value, infinite for one without a date."""
    values = []
    for cell in cells:
        seconds = seconds_in(cell, day_first)
        values.append(seconds if seconds is not None else np.nan if cell.lower() in MISSING else np.inf)
    return np.array(values, np.float64)
