"""Cells of the test split that its own columns can't tell, and that those of another model may: rare categories …

Beside them are far outliers that were cut, and gaps that training had no mark for.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from torchmill.components import files
from torchmill.components.encoding.columns import Column, Columns
from torchmill.components.state_files import require_json

FILE = "test_lost_cells.json"

Cell = str | float | None
"""Raw value of a cell; None without one."""
LostCells = Mapping[str, Sequence[tuple[int, Cell]]]
"""Rows of the test split, and their cells, by column."""


def lost_cells(column: Column, raw: np.ndarray, encoded: np.ndarray) -> list[tuple[int, Cell]]:
    """Return the rows of raw values (N,) that can't be read from their encoded numbers (N, width) again."""
    known = column.raw(encoded)
    if column.categories:
        return [(row, raw[row]) for row in np.flatnonzero(known != raw).tolist()]
    same = (known.astype(np.float32) == raw.astype(np.float32)) | (np.isnan(known) & np.isnan(raw))
    return [(row, None if np.isnan(raw[row]) else float(raw[row])) for row in np.flatnonzero(~same).tolist()]


def write_lost_cells(folder: Path, cells: LostCells) -> list[Path]:
    """Write the cells into the folder of a data set, if there are some, and return the file."""
    if not any(cells.values()):
        return []
    with files.new_file(folder / FILE) as file:
        file.write(json.dumps(cells, ensure_ascii=False).encode())
    return [folder / FILE]


def read_lost_cells(folder: Path) -> LostCells:
    """Return the cells that ``write_lost_cells`` wrote; none of data of an earlier version."""
    file = folder / FILE
    if not file.is_file():
        return {}
    return require_json(file, dict[str, list[tuple[int, Cell]]], "Run the same command again: it is prepared anew.")


def part_of(cells: LostCells, rows: Sequence[int]) -> LostCells:
    """Return the cells of some rows, counted among these."""
    places = {row: place for place, row in enumerate(rows)}
    return {name: [(places[row], cell) for row, cell in lost if row in places] for name, lost in cells.items()}


def with_lost_cells(rows: np.ndarray, columns: Columns, cells: LostCells, start: int = 0) -> np.ndarray:
    """Return rows that were translated to some columns (N, F), with the cells that the translation can't know.

    Args:
        start: number of the first row in the test split.
    """
    patched = rows.copy()
    for column in columns.columns:
        known = [(row - start, cell) for row, cell in cells.get(column.name, ()) if 0 <= row - start < len(rows)]
        if known:
            raw = np.array(
                [np.nan if cell is None else cell for _, cell in known], object if column.categories else None
            )
            patched[[row for row, _ in known], columns.spans[column.name]] = column.encode(raw)
    return patched
