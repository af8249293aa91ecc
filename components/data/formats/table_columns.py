"""Columns of a table as numbers: their meaning is guessed, and all misfits are reported together."""

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from torchmill.components.encoding.columns import Column
from torchmill.components.encoding.dates import DAY
from torchmill.components.errors import UserError, shortened
from torchmill.components.reading.dates import dates_in, looks_like_date, needs_order, orders, readings
from torchmill.components.reading.tables import (
    MISSING,
    Table,
    nor,
    number_of,
    numbers_in,
    with_sign,
)

MOSTLY = 0.9
"""Share of numbers above which a column's other cells are mistakes; below it, the column holds categories. So it is
with dates."""

EXACT = 2**53
"""Whole numbers beyond this are no longer told apart by float64."""

LARGEST = float(np.finfo(np.float32).max)

TOO_COARSE = 100
"""Smallest ratio of a column's deviation to float32's steps there; below it, the column is centred."""

FEW = 20
"""Number of different texts that are never taken for names of rows."""

LEAST, LEAST_SHARE = 10, 0.01
"""Training rows that a category needs to be learned from, and their share in small tables, where fewer will do."""

TAIL = 0.01
"""Share of values at each end of a column that may be far outliers."""

FAR = 5
"""Distance of far outliers from the other values, in widths of the range of these. Delays of flights, for example, have
a heavy tail that counts; a number that was written in another unit is farther off."""

DateOrder = Literal["auto", "day_first", "month_first"]


@dataclass(frozen=True)
class ColumnGuess:
    """The meaning of a column of inputs."""

    name: str
    kind: Literal["number", "date", "category"]
    faults: tuple[str, ...] = ()
    """Cells that don't fit, in words."""
    notes: tuple[str, ...] = ()
    """Guesses in words."""
    crowd: str = ""
    """Description of a column whose texts name rows; empty for others."""
    day_first: bool | None = None
    """Order of dates such as 03/04/2024, if there are some."""
    both_orders: bool = False
    """True if no cell tells the order of dates."""


def guess(tables: Mapping[str, Table], name: str, date_order: DateOrder = "auto") -> ColumnGuess:
    """Return the meaning of a column, which the training table decides, and what doesn't fit in all tables."""
    train = tables["train"]
    all_cells = train.cells(name)
    cells = [cell for cell in all_cells if cell.lower() not in MISSING]
    if not cells:
        return ColumnGuess(name, "number", (f"{train.file.name}: the column '{name}' has no value at all",))
    kind = _kind(train.types.get(name, ""), cells)
    if kind == "number":
        faults = tuple(_misfits(tables, name))
        counts_up = not faults and len(cells) > FEW and set(np.diff([number_of(cell) for cell in all_cells])) == {1}
        note = f"the column '{name}' counts the rows: if it tells nothing, leave it out, --data.args.ignore {name}"
        return ColumnGuess(name, kind, faults, (note,) * counts_up)
    if kind == "date":
        return _guess_dates(tables, name, date_order)
    faults = tuple(_signed(tables, name))
    kinds = sorted(set(all_cells))
    crowd = _crowd(name, kinds) if not faults and _names_rows(all_cells) else ""
    words = sorted({cell for cell in all_cells if cell.lower() in MISSING})
    notes = [f"{word!r} in the column '{name}' is a category of its own" for word in words if word]
    notes += [f"cells of the column '{name}' without a value are a category of their own"] * ("" in words)
    return ColumnGuess(name, kind, faults, tuple(notes), crowd)


def _kind(schema_type: str, cells: Sequence[str]) -> Literal["number", "date", "category"]:
    if schema_type == "number" or (
        not schema_type and np.isfinite([number_of(cell) for cell in cells]).mean() > MOSTLY
    ):
        return "number"
    return "date" if np.mean([looks_like_date(cell) for cell in cells]) > MOSTLY else "category"


def _misfits(tables: Mapping[str, Table], name: str) -> Iterator[str]:
    """Yield in words which cells of a column are no numbers."""
    for table in tables.values():
        cells = table.cells(name)
        wrong = np.flatnonzero(np.isinf(numbers_in(cells))).tolist()
        signs = Counter(with_sign(cells[row]) for row in wrong)
        for sign, _ in signs.most_common():
            places = table.places([row for row in wrong if with_sign(cells[row]) == sign], cells)
            what = f"is a number written with {sign}" if sign else "is not a number"
            yield f"{table.file.name} {places[0]} in the column '{name}' {what}{nor(places[1:])}"
        whole = {cell for cell in cells if re.fullmatch(r"[0-9]{16,}", cell)}
        if len({float(cell) for cell in whole}) < len({int(cell) for cell in whole}):
            yield (
                f"{table.file.name} column '{name}' has whole numbers beyond {EXACT:,}, for example "
                f"{next(iter(whole))}, which no number of 64 bits tells apart"
            )


def _signed(tables: Mapping[str, Table], name: str) -> Iterator[str]:
    """Yield in words that all cells of a column of texts are numbers with a comma or a unit."""
    for table in tables.values():
        cells = table.cells(name)
        odd = [row for row, cell in enumerate(cells) if cell.lower() not in MISSING and np.isnan(number_of(cell))]
        if odd and all(with_sign(cells[row]) for row in odd):
            place = table.places(odd[:1], cells)[0]
            sign = with_sign(cells[odd[0]])
            yield f"{table.file.name} {place} in the column '{name}' is a number written with {sign}"


def _guess_dates(tables: Mapping[str, Table], name: str, date_order: DateOrder) -> ColumnGuess:
    """Return the meaning of a column of dates; the order of day and month must follow from its cells, or be set."""
    cells = [cell for table in tables.values() for cell in table.cells(name)]
    day_first, faults, both = None, [], False
    if mixed := [cell for cell in cells if needs_order(cell)]:
        told = orders(mixed) if date_order == "auto" else {date_order == "day_first"}
        if len(told) == 1:
            (day_first,) = told
        elif told:
            faults += [
                f"column '{name}' has the day first in some dates, and the month first in others: {_both(tables, name)}"
            ]
        else:
            both = True
            first, second = readings(mixed[0])
            place = _place(tables, name, mixed[0])
            faults.append(
                f"{place} in the column '{name}' is {first} with the day first, {second} with the month first"
            )
    for table in tables.values() if not faults else ():
        own = table.cells(name)
        wrong = np.flatnonzero(np.isinf(dates_in(own, day_first))).tolist()
        if places := table.places(wrong, own):
            faults.append(f"{table.file.name} {places[0]} in the column '{name}' is no date{nor(places[1:])}")
    order = (
        ""
        if day_first is None
        else f", the {'day' if day_first else 'month'} before the {'month' if day_first else 'day'}"
    )
    note = f"the column '{name}' holds dates{order}"
    return ColumnGuess(name, "date", tuple(faults), (note,) * bool(order), day_first=day_first, both_orders=both)


def _place(tables: Mapping[str, Table], name: str, cell: str) -> str:
    for table in tables.values():
        if cell in (cells := table.cells(name)):
            return f"{table.file.name} {table.places([cells.index(cell)], cells)[0]}"
    raise KeyError(cell)


def _both(tables: Mapping[str, Table], name: str) -> str:
    cells = [cell for table in tables.values() for cell in table.cells(name)]
    examples = [next(cell for cell in cells if orders([cell]) == {is_day_first}) for is_day_first in (True, False)]
    return " and ".join(_place(tables, name, cell) for cell in examples)


def least_rows(rows: int) -> int:
    """Return the number of training rows that a category needs to be learned from: 1 in 100 rows, and 10 at most."""
    return max(1, min(LEAST, int(LEAST_SHARE * rows)))


def _names_rows(cells: Sequence[str]) -> bool:
    """Return whether texts identify rows: nearly all are different, or none occurs often enough to be learned from."""
    counts = Counter(cells)
    is_rare = max(counts.values()) < least_rows(len(cells))
    return len(counts) > FEW and (is_rare or len(counts) > MOSTLY * len(cells))


def _crowd(name: str, kinds: Sequence[str]) -> str:
    """Describe a column with too many categories, by an example."""
    looks = ", texts" if np.mean([len(kind.split()) for kind in kinds]) > 3 else ""
    return f"'{name}' ({len(kinds):,} different{looks}, for example {kinds[0][:30]!r})"


def refuse(guesses: Sequence[ColumnGuess], others: Sequence[str], place: str) -> None:
    """Refuse a table with columns that don't fit, all of them at once.

    Args:
        others: faults of the labels.

    Raises:
        UserError: there are faults.
    """
    faults = [*others, *(fault for each in guesses for fault in each.faults)]
    crowded = [each.crowd for each in guesses if each.crowd]
    if not faults and not crowded:
        return
    wrong = [each.name for each in guesses if each.faults or each.crowd]
    ignored = f': --data.args \'{{"ignore": "{",".join(wrong)}"}}\'' if wrong else ""
    plainly = "Write numbers plainly as 0.5 and 2000, and dates as 2024-04-03; or leave the rows or columns out"
    remedies = [f"{plainly if faults else 'Leave such columns out'}{ignored}."]
    if any(each.both_orders for each in guesses):
        remedies.append("If no date tells the order, set --data.args.date_order day_first or month_first.")
    if crowded:
        faults.append(f"(nearly) every row has a text of its own, from which nothing is learned: {', '.join(crowded)}")
        first = next(each.name for each in guesses if each.crowd)
        remedies.append(f"If '{first}' holds texts to learn from, add --data.args.text '{first}'.")
    raise UserError(f"{place}: {'; '.join(faults)}.", " ".join(remedies))


def raw_values(table: Table, column: Column) -> np.ndarray:
    """Return the raw values of a column: numbers, Unix times or categories (N,)."""
    cells = table.cells(column.name)
    if column.categories:
        return np.array(cells, object)
    return dates_in(cells, column.day_first) if column.is_date else numbers_in(cells)


def column_of(table: Table, guess: ColumnGuess, rows: np.ndarray, max_categories: int, pieces: int = 0) -> Column:
    """Return the column that the training rows of a table make, with its median, categories and offset.

    The categories are the most frequent ones, and each has ``least_rows`` at least; all others are one, "other".

    Args:
        pieces: largest number of pieces of numbers.

    Raises:
        UserError: no training row has a value.
    """
    if guess.kind == "category":
        cells = table.cells(guess.name)
        counts = Counter(cells[row] for row in rows.tolist())
        frequent = sorted(counts, key=lambda cell: (-counts[cell], cell))[:max_categories]
        least = least_rows(len(rows))
        kept = [cell for cell in frequent if counts[cell] >= least] or frequent[:1]
        return Column(guess.name, tuple(sorted(kept)), has_other=len(kept) < len(counts))
    is_date = guess.kind == "date"
    raw = raw_values(table, Column(guess.name, is_date=is_date, day_first=guess.day_first))[rows]
    values = raw[~np.isnan(raw)]
    if not len(values):
        raise UserError(f"{table.file}: no training row has a value in the column '{guess.name}'.", "Leave it out.")
    has_gaps = len(values) < len(raw)
    if not is_date:
        ends = ends_of(values)
        values = values.clip(*ends) if ends else values
        offset = offset_of(values)
        edges = edges_of(values - offset, pieces)
        median = float(np.median(values))
        return Column(guess.name, (), offset, median, has_gaps, ends=ends, edges=edges)
    median = float(np.quantile(values, 0.5, method="lower"))
    return Column(
        guess.name,
        offset=float(median // DAY),
        median=median,
        has_gaps=has_gaps,
        is_date=True,
        day_first=guess.day_first,
        has_times=bool((values % DAY).any()),
    )


def ends_of(values: np.ndarray) -> tuple[float, ...]:
    """Return the smallest and the largest value that is no far outlier; empty if there are no far outliers.

    These ends are ``FAR`` times as far from the range of 98 of 100 values as that is wide.
    """
    first, last = np.quantile(values, [TAIL, 1 - TAIL]).tolist()
    low, high = first - FAR * (last - first), last + FAR * (last - first)
    return (low, high) if low < high and (values.min() < low or values.max() > high) else ()


def edges_of(values: np.ndarray, pieces: int) -> tuple[float, ...]:
    """Return the ends of pieces that hold equally many values; none of values with too few different ones."""
    if pieces < 2:
        return ()
    edges = np.unique(np.quantile(values, np.linspace(0, 1, pieces + 1)).astype(np.float32)).tolist()
    return tuple(edges) if len(edges) > 2 else ()


def offset_of(values: np.ndarray) -> float:
    """Return the whole number to subtract before values become float32; 0 unless float32 would merge them.

    Unix times, for example, are 128 seconds apart in float32.
    """
    largest = float(np.abs(values).max(initial=0))
    if largest > LARGEST:
        return 0.0
    deviation = float(values.std()) if len(values) else 0.0
    if not deviation or float(np.spacing(np.float32(largest))) * TOO_COARSE < deviation:
        return 0.0
    middle = float(np.round(values.mean()))
    return middle if float(np.abs(values - middle).max()) < largest else 0.0


def notes_on(columns: Sequence[Column]) -> list[str]:
    """Return in words which columns were centred, which have gaps, and which have rare categories."""
    centred = [f"'{column.name}' by {column.offset:,.0f}" for column in columns if column.offset and not column.is_date]
    gaps = [f"'{column.name}' by {column.shown_median}" for column in columns if column.has_gaps]
    cut = [f"'{column.name}' to {column.ends[0]:.5g} … {column.ends[1]:.5g}" for column in columns if column.ends]
    other = [f"'{column.name}' (beside {len(column.categories):,})" for column in columns if column.has_other]
    return [
        *([f"centred, since float32 would merge their values: {shortened(centred)}"] if centred else []),
        *([f"cells without a value are replaced by training's median, and marked: {shortened(gaps)}"] if gaps else []),
        *([f"far outliers are cut: {shortened(cut)}"] if cut else []),
        *([f"rare categories are one, 'other': {shortened(other)}"] if other else []),
    ]
