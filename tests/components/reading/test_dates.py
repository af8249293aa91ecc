"""Dates in cells: what is unambiguous is read, and the order of day and month is never guessed from one cell."""

from datetime import UTC, datetime

import numpy as np
import pytest

from torchmill.components.reading.dates import dates_in, looks_like_date, orders, readings, seconds_in


def at(text: str) -> float:
    return datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()


@pytest.mark.parametrize(
    ("cell", "moment"),
    [
        ("2024-02-29", "2024-02-29"),
        ("2024/2/9", "2024-02-09"),
        ("1969.12.31", "1969-12-31"),
        ("2024-01-31 13:05", "2024-01-31T13:05"),
        ("2024-01-31T13:05:09.75", "2024-01-31T13:05:09"),
        ("2024-01-31T13:05:09.123456789", "2024-01-31T13:05:09"),
        ("2024-01-31T13:05:00Z", "2024-01-31T13:05"),
        ("2024-01-31 13:05:00+02:00", "2024-01-31T11:05"),
        ("31/01/2024", "2024-01-31"),
        ("1.31.2024", "2024-01-31"),
        ("03-03-2024", "2024-03-03"),
        ("31 Jan 2024", "2024-01-31"),
        ("31. January 2024", "2024-01-31"),
        ("Jan. 31, 2024", "2024-01-31"),
        ("January 31 2024", "2024-01-31"),
        ("0001-01-01", "0001-01-01"),
    ],
)
def test_what_is_unambiguous_is_read(cell, moment):
    assert looks_like_date(cell) and seconds_in(cell) == at(moment)


@pytest.mark.parametrize(
    "cell",
    ["", "20240131", "03/04/2024", "2024-02-30", "2024-13-01", "31 Foo 2024", "31/01/24", "2024-01-31 25:00", "x"],
)
def test_what_is_no_date_or_ambiguous_is_not_read(cell):
    assert seconds_in(cell) is None


def test_an_order_is_followed_and_told_by_days_above_12():
    assert (seconds_in("03/04/2024", True), seconds_in("03/04/2024", False)) == (at("2024-04-03"), at("2024-03-04"))
    assert seconds_in("31/01/2024", False) is None
    assert orders(["03/04/2024", "2024-05-06"]) == set()
    assert orders(["03/04/2024", "13/04/2024"]) == {True} and orders(["4/13/2024"]) == {False}
    assert orders(["13/04/2024", "04/13/2024"]) == {True, False}
    assert readings("03/04/2024") == ("2024-04-03", "2024-03-04")


def test_cells_without_a_value_are_nan_and_those_without_a_date_infinite():
    assert np.array_equal(dates_in(["1970-01-02", "NaT", "", "soon"]), [86400, np.nan, np.nan, np.inf], equal_nan=True)
