"""Inputs of a prediction: image files, rows of tables or lines of text, each with its name."""

import csv
import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from torchmill.components.data.formats import image_files as pictures
from torchmill.components.data.formats.class_folders import SYSTEM_FILES
from torchmill.components.data.formats.tables import MISSING, USUAL_LABELS, USUAL_TEXTS, number_of, read_table
from torchmill.components.data.formats.texts import decoded
from torchmill.components.encoding.class_names import in_order
from torchmill.components.encoding.columns import Columns
from torchmill.components.errors import UserError, nearest
from torchmill.components.onnx_model.model import OnnxModel

MAX_PIXELS = 64_000_000
"""Largest image to decode."""
TABLES = (".csv", ".tsv", ".parquet")
LARGEST = float(np.finfo(np.float32).max)


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
    for place in places:
        if not place.exists():
            beside = [path.name for path in place.parent.iterdir()] if place.parent.is_dir() else []
            raise UserError(f"There is no {place}.", nearest(place.name, beside))
    if model.field.is_picture:
        return _images(model, places)
    return _texts(model, places) if model.field.is_sequence else _numbers(model, places)


def _images(model: OnnxModel, places: Sequence[Path]) -> Inputs:
    if model.shape[0] not in (1, 3):
        raise UserError(f"{model.file} takes images of {model.shape[0]} channels.", "Image files have 1 or 3.")
    files = _files(places, pictures.SUFFIXES, model.field.samples)
    channels, height, width = model.shape

    def read(number: int) -> np.ndarray | Unreadable:
        pixels = pictures.read_pixels(Path(files[number]), (channels, height, width), MAX_PIXELS)
        return Unreadable(pixels) if isinstance(pixels, str) else pixels

    return Inputs(files, [_stamp(file) for file in files], read)


def _files(places: Sequence[Path], suffixes: frozenset[str], noun: str) -> list[str]:
    """Return files in natural order; folders are searched for the suffixes, with their subfolders."""
    files: list[str] = []
    for place in places:
        if place.is_file():  # a file that the user names counts whatever its suffix
            files.append(str(place))
            continue
        inside = []
        for folder, folders, names in os.walk(place):
            folders[:] = [name for name in folders if not name.startswith(".")]
            for name in names:
                suffix = os.path.splitext(name)[1].lower()  # noqa: PTH122 (a Path for each of a million files is slow)
                if suffix in suffixes and not name.startswith(".") and name.lower() not in SYSTEM_FILES:
                    inside.append(os.path.join(folder, name))  # noqa: PTH118
        if not inside:
            raise UserError(f"There are no {noun} in {place}.", f"Their names end in {', '.join(sorted(suffixes))}.")
        files += in_order(inside)
    return files


def _stamp(file: str) -> str:
    try:
        status = os.stat(file)  # noqa: PTH116
    except OSError:
        return "gone"
    return f"{status.st_size} {status.st_mtime_ns}"


def _texts(model: OnnxModel, places: Sequence[Path]) -> Inputs:
    assert model.vocabulary  # a missing vocabulary raises here, before the first batch
    names: list[str] = []
    texts: list[str] = []
    for place in _files(places, frozenset({*TABLES, ".txt"}), "texts"):
        file = Path(place)
        if file.suffix.lower() in TABLES:
            columns, lines = _table(file)
            trained = model.columns.names if model.columns else ()
            usual = [name for name in columns if name.lower() in USUAL_TEXTS]
            column = next((name for name in (*trained, *usual) if name in columns), None)
            if column is None and len(columns) > 1:
                expected = next(iter(trained), "text")
                raise UserError(f"{file} has no column '{expected}'.", nearest(expected, columns))
            entries: Sequence[str] = [str(cell) for cell in columns[column or next(iter(columns))]]
        else:
            entries = decoded(file.read_bytes(), file).splitlines()
            lines = list(range(1, len(entries) + 1))
        names += [f"{place} line {line}" for line in lines]
        texts += entries

    def read(number: int) -> str:
        return texts[number] if texts[number].strip() else Unreadable("is empty")

    return Inputs(names, texts, read)


def _numbers(model: OnnxModel, places: Sequence[Path]) -> Inputs:
    names: list[str] = []
    rows: list[list[Any]] = []
    read_by: list[Columns] = []
    for place in _files(places, frozenset(TABLES), "tables"):
        file = Path(place)
        cells, lines = _table(file)
        columns = model.columns or _columns_in_order(model, file, list(cells))
        missing = [name for name in columns.names if name not in cells]
        if missing:
            message = f"{file} has no column {', '.join(repr(name) for name in missing[:8])}"
            raise UserError(f"{message}{', …' * (len(missing) > 8)}.", nearest(missing[0], cells))
        names += [f"{place} line {line}" for line in lines]
        rows += map(list, zip(*(cells[name] for name in columns.names), strict=True))
        read_by += [columns] * len(lines)

    def read(number: int) -> np.ndarray | Unreadable:
        values: list[float] = []
        for column, cell in zip(read_by[number].columns, rows[number], strict=True):
            if cell is None or (text := str(cell).strip()).lower() in MISSING:
                return Unreadable(f"no value in '{column.name}'")
            if column.categories:
                values += [text == kind for kind in column.categories]
                continue
            value = number_of(text) if not isinstance(cell, bool) else float(cell)
            if not abs(value) <= LARGEST:
                return Unreadable(f"{cell!r} is not a number in '{column.name}'")
            values.append(value)
        return np.array(values, np.float32).reshape(model.shape)

    return Inputs(names, ["\0".join(map(str, row)) for row in rows], read)


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


def _table(file: Path) -> tuple[dict[str, list[Any]], list[int]]:
    """Return the cells by column, and the line of each row; Parquet has row numbers from 1 instead."""
    if file.suffix.lower() == ".parquet":
        return _parquet(file)
    content = decoded(file.read_bytes(), file)
    first = next((line for line in content.splitlines() if line.strip()), "")
    if first and not any(sign in first for sign in ",;\t"):  # a single column, for example of texts
        lines = [(number, row) for number, row in enumerate(csv.reader(content.splitlines()), 1) if row]
        return {first.strip(): [row[0] for _, row in lines[1:]]}, [number for number, _ in lines[1:]]
    table = read_table(file)
    return {name: table.cells(name) for name in table.columns}, table.lines


def _parquet(file: Path) -> tuple[dict[str, list[Any]], list[int]]:
    import pyarrow
    from pyarrow import parquet

    try:
        table = parquet.read_table(file)
    except (pyarrow.ArrowException, OSError) as error:
        raise UserError(f"{file} is not a Parquet file: {' '.join(str(error).split())[:200]}") from None
    return table.to_pydict(), list(range(1, table.num_rows + 1))


def largest_batch(shape: tuple[int, ...]) -> int:
    """Return the number of inputs in a batch: 256, or fewer if they are large."""
    return max(1, min(256, 128_000_000 // max(1, math.prod(shape) * 4)))
