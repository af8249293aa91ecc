"""What a model is asked about: image files, rows of tables, lines of text; each by a name that people know it by."""

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
"""Larger images are not decoded."""
TABLES = (".csv", ".tsv", ".parquet")
LARGEST = float(np.finfo(np.float32).max)


@dataclass(frozen=True)
class Inputs:
    """Inputs in their order. They are read when they are wanted."""

    names: Sequence[str]
    """An image's path, or a table's or text's line."""
    digests: Sequence[str]
    """Changes where an input does."""
    read: Callable[[int], Any]
    """Give one by its number: uint8 (C, H, W), a text, or float32 (F, …); or a reason in words, as ``Unreadable``."""

    def __len__(self) -> int:
        return len(self.names)


class Unreadable(str):
    """Why an input can't be read."""

    __slots__ = ()


def gather(model: OnnxModel, places: Sequence[Path]) -> Inputs:
    """Find what is to be answered at these places, for a model of that kind.

    Raises:
        UserError: a place is not there, holds nothing of the kind, or a table lacks columns.
    """
    for place in places:
        if not place.exists():
            beside = [other.name for other in place.parent.iterdir()] if place.parent.is_dir() else []
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
        found = pictures.read_pixels(Path(files[number]), (channels, height, width), MAX_PIXELS)
        return Unreadable(found) if isinstance(found, str) else found

    return Inputs(files, [_stamp(file) for file in files], read)


def _files(places: Sequence[Path], suffixes: frozenset[str], what: str) -> list[str]:
    """Files at places, in natural order; of folders those that end so, of folders in them too."""
    found: list[str] = []
    for place in places:
        if place.is_file():  # whatever its name: who names it means it
            found.append(str(place))
            continue
        inside = []
        for folder, folders, names in os.walk(place):
            folders[:] = [name for name in folders if not name.startswith(".")]
            for name in names:
                suffix = os.path.splitext(name)[1].lower()  # noqa: PTH122 (a Path for each of a million files is slow)
                if suffix in suffixes and not name.startswith(".") and name.lower() not in SYSTEM_FILES:
                    inside.append(os.path.join(folder, name))  # noqa: PTH118
        if not inside:
            raise UserError(f"There are no {what} in {place}.", f"Their names end in {', '.join(sorted(suffixes))}.")
        found += in_order(inside)
    return found


def _stamp(file: str) -> str:
    try:
        held = os.stat(file)  # noqa: PTH116
    except OSError:
        return "gone"
    return f"{held.st_size} {held.st_mtime_ns}"


def _texts(model: OnnxModel, places: Sequence[Path]) -> Inputs:
    assert model.vocabulary  # told here and not with the first batch
    names: list[str] = []
    texts: list[str] = []
    for place in _files(places, frozenset({*TABLES, ".txt"}), "texts"):
        file = Path(place)
        if file.suffix.lower() in TABLES:
            columns, lines = _table(file)
            trained = model.columns.names if model.columns else ()
            usual = [name for name in columns if name.lower() in USUAL_TEXTS]
            found = next((name for name in (*trained, *usual) if name in columns), None)
            if found is None and len(columns) > 1:
                wanted = next(iter(trained), "text")
                raise UserError(f"{file} has no column '{wanted}'.", nearest(wanted, columns))
            held: Sequence[str] = [str(cell) for cell in columns[found or next(iter(columns))]]
        else:
            held = decoded(file.read_bytes(), file).splitlines()
            lines = list(range(1, len(held) + 1))
        names += [f"{place} line {line}" for line in lines]
        texts += held

    def read(number: int) -> str:
        return texts[number] if texts[number].strip() else Unreadable("is empty")

    return Inputs(names, texts, read)


def _numbers(model: OnnxModel, places: Sequence[Path]) -> Inputs:
    names: list[str] = []
    rows: list[list[Any]] = []
    read_by: list[Columns] = []
    for place in _files(places, frozenset(TABLES), "tables"):
        file = Path(place)
        held, lines = _table(file)
        columns = model.columns or _in_order_of(model, file, list(held))
        missing = [name for name in columns.names if name not in held]
        if missing:
            told = f"{file} has no column {', '.join(repr(name) for name in missing[:8])}"
            raise UserError(f"{told}{', …' * (len(missing) > 8)}.", nearest(missing[0], held))
        names += [f"{place} line {line}" for line in lines]
        rows += map(list, zip(*(held[name] for name in columns.names), strict=True))
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


def _in_order_of(model: OnnxModel, file: Path, names: list[str]) -> Columns:
    """The columns of a table for a model that does not name its own: all but the label, as they stand there."""
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
    """Columns by name, and the line of each row: of a parquet file the number of the row, from 1."""
    if file.suffix.lower() == ".parquet":
        return _parquet(file)
    content = decoded(file.read_bytes(), file)
    first = next((line for line in content.splitlines() if line.strip()), "")
    if first and not any(sign in first for sign in ",;\t"):  # one column alone, as of texts
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
    """So many inputs at once: 256, or fewer of large ones."""
    return max(1, min(256, 128_000_000 // max(1, math.prod(shape) * 4)))
