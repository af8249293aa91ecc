"""Time series: your own .csv or .tsv, with a row for each step of time; series:PATH.

Samples are windows: ``history`` (columns, context), the target's column first, and ``future`` (horizon) of the target.
Splits are cut by time: the last steps are the test split, those before them validate. Licence: yours.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from pydantic import Field

from torchmill.components.batches.field_refs import FieldRef
from torchmill.components.data.content import row_digests
from torchmill.components.data.field_splits import FieldSplits
from torchmill.components.data.formats.time_axis import TimeAxis, time_axis
from torchmill.components.errors import UserError, nearest, shortened
from torchmill.components.reading.tables import MISSING, Table, number_of, read_table

NAMED_FIELDS = True

ORDERED = True
"""Splits follow the order of time."""

TIMES = ("timestamp", "datetime", "time", "date", "ds", "month", "week", "day", "hour")
TARGETS = ("target", "value", "y")
"""Names of columns, in lower case, that are used if the user names none; the best first."""

HISTORY, FUTURE = "history", "future"
SEASONS = 3
"""Seasons of a window's history, unless the user says otherwise."""
HORIZON = 12
"""Steps to forecast of a series without a season, unless the user says otherwise."""


def load(
    path: Path,
    validation_fraction: Annotated[float, Field(ge=0.001, le=0.9)] = 0.1,
    time: str = "",
    target: str = "",
    horizon: Annotated[int, Field(ge=0, le=1_000_000)] = 0,
    context: Annotated[int, Field(ge=0, le=1_000_000)] = 0,
    season: Annotated[int, Field(ge=0, le=1_000_000)] = 0,
    ignore: str | list[str] = "",
    test_fraction: Annotated[float, Field(ge=0.001, le=0.9)] = 0.2,
) -> FieldSplits:
    """Read windows of a series.

    Args:
        time: column of the times; without it time, timestamp, date or the like, or else rows are steps.
        target: column to forecast; without it target, value or y, or the only one.
        horizon: steps to forecast; 0 for a season.
        context: steps of a window's history; 0 for three seasons, and at least twice the horizon.
        season: steps of a season; 0 for a day of hours or minutes, a week of days, and a year of months.
        ignore: columns to leave out, separated by commas or as a list.
        test_fraction: share of the steps, the last ones, to test with.

    Raises:
        UserError: a column is missing, a cell is no number or no time, or the series is too short.
    """
    table = read_table(path, single=True)
    left_out = [name.strip() for name in (ignore.split(",") if isinstance(ignore, str) else ignore) if name.strip()]
    for name in (*left_out, *filter(None, (time, target))):
        if name not in table.columns:
            raise UserError(f"{path} has no column '{name}'.", nearest(name, table.columns))
    time = time or _usual_time(table, left_out)
    columns = [name for name in table.columns if name not in (*left_out, time)]
    target = target or _usual_target(columns, path)
    columns = [target, *(name for name in columns if name != target)]
    values = _values(table, columns)
    axis = time_axis(table, time) if time else TimeAxis("", 1, ("there is no column of times: rows are steps",))
    season = season or axis.season
    horizon = horizon or (season if season > 1 else HORIZON)
    context = context or max(SEASONS * season, 2 * horizon)
    if context <= season:
        raise UserError(
            f"{path}: a history of {context} steps holds no season of {season} steps to compare with.",
            f"Set --data.args.context above {season}, or another --data.args.season.",
        )
    ends = _ends(len(values), context, horizon, test_fraction, validation_fraction, path)
    words = f"{len(values):,} steps{f' of {axis.step}' * bool(axis.step)}, season {season}"
    notes = (f"{words}: {horizon} steps of '{target}' from {context} of {shortened(columns)}", *axis.notes)
    return _windows(values, context, horizon, season, ends, _names(table, time), str(path), notes)


def _usual_time(table: Table, left_out: Sequence[str]) -> str:
    """Return the column of times by its name; empty if there is none. A month or an hour as a number is a value."""
    columns = {name.lower(): name for name in table.columns if name not in left_out}
    named = [columns[name] for name in TIMES if name in columns]
    return next((name for name in named if not np.isfinite(number_of(table.cells(name)[0]))), "")


def _usual_target(columns: Sequence[str], path: Path) -> str:
    usual = [name for name in columns if name.lower() in TARGETS] or (list(columns) if len(columns) == 1 else [])
    if not usual:
        raise UserError(
            f"{path} has the columns {shortened(columns, 8) or 'of times alone'}; which one shall be forecast?",
            "Name it: --data.args.target COLUMN",
        )
    return usual[0]


def _values(table: Table, columns: Sequence[str]) -> np.ndarray:
    """Return the columns as float32 (steps, columns).

    Raises:
        UserError: cells are empty or no numbers; all columns with such cells are named.
    """
    arrays, faults = [], []
    for name in columns:
        cells = table.cells(name)
        arrays.append(np.array([number_of(cell) for cell in cells]))
        if odd := np.flatnonzero(~(np.abs(arrays[-1]) < np.finfo(np.float32).max)).tolist():
            cell, more = cells[odd[0]], f" and {len(odd) - 1:,} more" * (len(odd) > 1)
            is_empty = cell.lower() in MISSING
            wrong = "has no value" if is_empty else f"holds '{cell}'"
            faults.append(f"'{name}' {wrong} in line {table.lines[odd[0]]}{more}")
    if faults:
        raise UserError(
            f"{table.file}: {'; '.join(faults)}.",
            "A series needs a number in each row: fill gaps in, or leave columns out by --data.args.ignore; a column "
            "of times is named by --data.args.time.",
        )
    return np.stack(arrays, 1).astype(np.float32)


def _ends(
    steps: int, context: int, horizon: int, test_fraction: float, validation_fraction: float, path: Path
) -> tuple[int, int]:
    """Return the first steps of validation and test; each split holds a horizon at least.

    Raises:
        UserError: the series is too short.
    """
    test = steps - max(horizon, round(test_fraction * steps))
    validation = test - max(horizon, round(validation_fraction * test))
    if validation < context + horizon:
        raise UserError(
            f"{path} has {steps:,} steps: the last {steps - test:,} test, {test - validation:,} before them validate, "
            f"and the other {max(validation, 0):,} hold no window of {context:,} steps and {horizon:,} to forecast.",
            "Set a smaller --data.args.horizon or --data.args.context.",
        )
    return validation, test


def _names(table: Table, time: str) -> list[str]:
    """Return a name for each step."""
    return table.cells(time) if time else [f"line {line}" for line in table.lines]


def _windows(
    values: np.ndarray,
    context: int,
    horizon: int,
    season: int,
    ends: tuple[int, int],
    names: Sequence[str],
    source: str,
    notes: tuple[str, ...],
) -> FieldSplits:
    """Return the windows of each split: the steps that they forecast lie within it."""
    whole = sliding_window_view(values, context + horizon, axis=0)
    first_of = {"train": context, "validation": ends[0], "test": ends[1]}
    end_of = {"train": ends[0], "validation": ends[1], "test": len(values)}
    rows = {split: slice(first - context, end_of[split] - context - horizon + 1) for split, first in first_of.items()}
    arrays: Mapping[str, Mapping[str, np.ndarray]] = {
        split: {HISTORY: whole[part, :, :context], FUTURE: whole[part, 0, context:]} for split, part in rows.items()
    }
    trained = values[: ends[0]].astype(np.float64)
    mean, std = tuple(trained.mean(0).tolist()), tuple(trained.std(0).tolist())
    fields = (
        _numbers(HISTORY, (values.shape[1], context), mean, std, season),
        _numbers(FUTURE, (horizon,), mean[:1], std[:1], season, is_target=True),
    )
    digests = {split: row_digests(part[HISTORY]) for split, part in arrays.items()}
    origins = {
        split: [f"from {name} on" for name in names[part.start + context : part.stop + context]]
        for split, part in rows.items()
    }
    return FieldSplits(arrays, fields, digests, None, origins, source, notes)


def _numbers(
    name: str,
    shape: tuple[int, ...],
    mean: tuple[float, ...],
    std: tuple[float, ...],
    season: int,
    is_target: bool = False,
) -> FieldRef:
    return FieldRef(
        name=name,
        file=name,
        kind="values",
        shape=shape,
        dtype="float32",
        is_target=is_target,
        mean=mean,
        std=std,
        season=season,
    )
