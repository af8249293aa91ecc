"""Inputs of a prediction: image files, rows of tables or lines of text, each with its name."""

import functools
import logging
import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from torchmill.components.data.formats import image_files
from torchmill.components.data.formats.table_columns import raw_values
from torchmill.components.encoding.class_names import in_order
from torchmill.components.encoding.columns import Column, Columns, unusual
from torchmill.components.errors import UserError, nearest
from torchmill.components.onnx_model.model import OnnxModel
from torchmill.components.reading import pictures
from torchmill.components.reading.folders import stamp, walk
from torchmill.components.reading.table_files import read_any_table
from torchmill.components.reading.tables import MISSING, USUAL_LABELS, USUAL_TEXTS, Table
from torchmill.components.reading.texts import lines, read_text

logger = logging.getLogger("torchmill")

MAX_PIXELS = 64_000_000
"""Largest image to decode."""
TABLES = (".csv", ".tsv", ".parquet")


@dataclass(frozen=True)
class Inputs:
    """Inputs in their order, read lazily."""

    names: Sequence[str]
    """Path of an image, or path and line in a table or text."""
    digests: Sequence[str]
    """Texts that change if an input changes."""
    read: Callable[[int], Any]
    """Reader of an input by number: uint8 (C, H, W), a text or float32 (F, …); ``Unreadable`` if it can't be read."""

    def __len__(self) -> int:
        return len(self.names)


class Unreadable(str):
    """Reason why an input can't be read."""

    __slots__ = ()


def gather(model: OnnxModel, places: Sequence[Path]) -> Inputs:
    """Find the inputs for a model in files and folders.

    Raises:
        UserError: a place doesn't exist or has no inputs of the model's kind, or a table lacks columns.
    """
    check_places(places)
    if model.field.is_picture:
        return _images(model, places)
    return _texts(model, places) if model.field.is_sequence else _numbers(model, places)


def check_places(places: Sequence[Path]) -> None:
    """Check that files and folders exist.

    Raises:
        UserError: one doesn't.
    """
    for place in places:
        if not place.exists():
            beside = [path.name for path in place.parent.iterdir()] if place.parent.is_dir() else []
            raise UserError(f"There is no {place}.", nearest(place.name, beside))


def _images(model: OnnxModel, places: Sequence[Path]) -> Inputs:
    if model.shape[0] not in (1, 3, 4):
        raise UserError(f"{model.file} takes images of {model.shape[0]} channels.", "Image files have 1, 3 or 4.")
    files = files_in(places, pictures.SUFFIXES, model.field.samples)
    channels, height, width = model.shape

    def read(number: int) -> np.ndarray | Unreadable:
        pixels = image_files.read_pixels(Path(files[number]), (channels, height, width), model.rules, MAX_PIXELS)
        return Unreadable(pixels) if isinstance(pixels, str) else pixels

    return Inputs(files, [stamp(file) for file in files], read)


def files_in(places: Sequence[Path], suffixes: frozenset[str], noun: str) -> list[str]:
    """Return files in natural order; folders are searched for the suffixes, with their subfolders."""
    files: list[str] = []
    for place in places:
        if place.is_file():  # a file that the user names counts whatever its suffix
            files.append(str(place))
            continue
        inside = [
            os.path.join(folder, name)  # noqa: PTH118 (a Path for each of a million files is slow)
            for folder, names, _ in walk(place)
            for name in names
            if os.path.splitext(name)[1].lower() in suffixes  # noqa: PTH122
        ]
        if not inside:
            raise UserError(f"There are no {noun} in {place}.", f"Their names end in {', '.join(sorted(suffixes))}.")
        files += in_order(inside)
    return files


def _texts(model: OnnxModel, places: Sequence[Path]) -> Inputs:
    assert model.vocabulary  # a missing vocabulary raises here, before the first batch
    names: list[str] = []
    digests: list[str] = []
    texts: list[str | Callable[[], str]] = []
    for place in files_in(places, frozenset({*TABLES, ".txt"}), "texts"):
        file = Path(place)
        if file.suffix.lower() not in TABLES and model.rules.text_per == "file":
            names.append(place)
            digests.append(stamp(place))
            texts.append(functools.partial(_whole, file))
            continue
        if file.suffix.lower() in TABLES:
            entries, numbers = _text_cells(model, file)
        else:
            entries = _whole(file)
            entries = [entries] if isinstance(entries, Unreadable) else lines(entries)
            numbers = list(range(1, len(entries) + 1))
        names += [f"{place} line {number}" for number in numbers]
        digests += entries
        texts += entries

    def read(number: int) -> str:
        text = texts[number]
        text = text if isinstance(text, str) else text()
        return text if text.strip() else Unreadable("is empty")

    return Inputs(names, digests, read)


def _whole(file: Path) -> str:
    """Return the text of a file, or why it can't be read."""
    try:
        return read_text(file)
    except UserError as error:
        return Unreadable(error.message.removeprefix(f"{file} ").removesuffix("."))


def _text_cells(model: OnnxModel, file: Path) -> tuple[list[str], list[int]]:
    """Return the cells of the column of texts, and their lines."""
    table = read_any_table(file, single=True)
    trained = model.columns.names if model.columns else ()
    usual = [name for name in table.columns if name.lower() in USUAL_TEXTS]
    column = next((name for name in (*trained, *usual) if name in table.columns), None)
    if column is None and len(table.columns) > 1:
        expected = next(iter(trained), "text")
        raise UserError(f"{file} has no column '{expected}'.", nearest(expected, table.columns))
    return table.cells(column or table.columns[0]), table.lines


def _numbers(model: OnnxModel, places: Sequence[Path]) -> Inputs:
    names: list[str] = []
    digests: list[str] = []
    values: list[np.ndarray | Unreadable] = []
    for place in files_in(places, frozenset(TABLES), "tables"):
        file = Path(place)
        table = read_any_table(file, single=True)
        columns = model.columns or _columns_in_order(model, file, list(table.columns))
        missing = [name for name in columns.names if name not in table.columns]
        if missing:
            message = f"{file} has no column {', '.join(repr(name) for name in missing[:8])}"
            raise UserError(f"{message}{', …' * (len(missing) > 8)}.", nearest(missing[0], table.columns))
        names += [f"{place} {table.unit} {number}" for number in table.lines]
        cells = [table.cells(name) for name in columns.names]
        digests += map("\0".join, zip(*cells, strict=True))
        values += _encoded(columns, table, model.shape)
    return Inputs(names, digests, values.__getitem__)


def _encoded(columns: Columns, table: Table, shape: tuple[int, ...]) -> list[np.ndarray | Unreadable]:
    """Return each row of a table as float32, or why it can't be read; what training didn't have is logged."""
    raw = {column.name: raw_values(table, column) for column in columns.columns}
    faults: dict[int, str] = {}
    for column in reversed(columns.columns):  # the first fault of a row counts
        cells, values = table.cells(column.name), raw[column.name]
        for row in np.flatnonzero(_wrong(column, values, columns.take_gaps)).tolist():
            is_gap = cells[row].lower() in MISSING
            what = "date" if column.is_date else "number"
            gap = f"no value in '{column.name}'"
            faults[row] = gap if is_gap else f"{cells[row]!r} is not a {what} in '{column.name}'"
        if columns.take_gaps:
            for words in unusual(column, values):
                logger.warning("predict  %s: %s", table.file, words)
    good = [row for row in range(len(table.rows)) if row not in faults]
    blocks = [column.encode(raw[column.name][good]) for column in columns.columns]
    encoded = iter(np.concatenate(blocks, 1).reshape(-1, *shape))
    return [Unreadable(faults[row]) if row in faults else next(encoded) for row in range(len(table.rows))]


def _wrong(column: Column, values: np.ndarray, take_gaps: bool) -> np.ndarray:
    """Return True for raw values that can't be encoded."""
    if take_gaps:
        return np.zeros(len(values), bool) if column.categories else np.isinf(values)
    if column.categories:
        return np.array([cell.lower() in MISSING and cell not in column.categories for cell in values.tolist()], bool)
    return ~np.isfinite(values)


def _columns_in_order(model: OnnxModel, file: Path, names: list[str]) -> Columns:
    """Return a table's columns without the label, in their order, for a model that doesn't name its columns."""
    count = math.prod(model.shape)
    rest = list(names)
    labels = [name for usual in USUAL_LABELS for name in names if name.lower() == usual]
    if len(names) > count and labels:
        rest.remove(labels[0])
    if len(rest) != count:
        raise UserError(
            f"{file} has {len(rest)} columns beside the label, and the model takes {count} numbers.",
            f"Leave {count} columns, in the order of the training data; there are: {', '.join(rest[:12])}.",
        )
    return Columns.called(rest)


def largest_batch(shape: tuple[int, ...]) -> int:
    """Return the number of inputs in a batch: 256, or fewer if they are large."""
    return max(1, min(256, 128_000_000 // max(1, math.prod(shape) * 4)))
