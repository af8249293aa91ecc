"""The parts of dates as numbers: the day, year, month, weekday and time that a network learns seasons from."""

import numpy as np

DAY = 86_400
"""Seconds."""

WEEKDAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")

DATE_PARTS = ("day number", "year", "month sine", "month cosine", "day sine", "day cosine", *WEEKDAYS)
TIME_PARTS = ("time of day", "hour sine", "hour cosine")
"""Names of the numbers that a date becomes; the latter if there are times."""


def cycle(steps: int) -> np.ndarray:
    """Return sine and cosine of each step of a cycle, float64 (steps, 2), for example of 12 months."""
    angle = 2 * np.pi * np.arange(steps) / steps
    return np.stack([np.sin(angle), np.cos(angle)], 1)


MONTHS, DAYS, HOURS = cycle(12), cycle(31), cycle(24)


def date_parts(seconds: np.ndarray, first_day: float, has_times: bool) -> np.ndarray:
    """Return the parts of dates, float32 (N, parts).

    Args:
        seconds: Unix times, float64 (N,), without gaps.
        first_day: day that counts as 0, in days since 1970.
        has_times: also return the time of day.
    """
    number = np.floor(seconds / DAY)
    days = number.astype("datetime64[D]")
    months = days.astype("datetime64[M]")
    parts = [
        (number - first_day)[:, None],
        (days.astype("datetime64[Y]").astype(np.int64) + 1970)[:, None],
        MONTHS[months.astype(np.int64) % 12],
        DAYS[(days - months).astype(np.int64)],
        np.eye(7)[(number.astype(np.int64) + 3) % 7],
    ]
    if has_times:
        within = np.floor(seconds - number * DAY)
        parts += [(within / DAY)[:, None], HOURS[(within // 3600).astype(np.int64)]]
    return np.concatenate(parts, 1).astype(np.float32)


def seconds_of(parts: np.ndarray, first_day: float, has_times: bool) -> np.ndarray:
    """Return the Unix times of ``date_parts``, in whole seconds."""
    seconds = (np.round(parts[:, 0].astype(np.float64)) + first_day) * DAY
    return seconds + np.round(parts[:, len(DATE_PARTS)].astype(np.float64) * DAY) if has_times else seconds


def iso(seconds: float) -> str:
    """Return a Unix time as ISO 8601 writes it; without the time at midnight."""
    text = str(np.datetime64(int(seconds), "s"))
    return text.removesuffix("T00:00:00").replace("T", " ")
