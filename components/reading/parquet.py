"""Parquet files as tables of cells, with the types of their schema."""

from pathlib import Path

import pyarrow
from pyarrow import parquet, types

from torchmill.components.errors import UserError, nearest
from torchmill.components.reading.tables import Table


def read_parquet(file: Path) -> Table:
    """Read a Parquet file; pandas' index is left out, and null and NaN become cells without a value.

    Raises:
        UserError: the file is no Parquet file, is empty, or has columns of lists, structures or bytes; all are named.
    """
    try:
        read = parquet.read_table(file)
    except FileNotFoundError:
        siblings = [path.name for path in file.parent.iterdir()] if file.parent.is_dir() else []
        raise UserError(f"There is no {file}.", nearest(file.name, siblings)) from None
    except (pyarrow.ArrowException, OSError, UnicodeDecodeError) as error:
        raise UserError(f"{file} is not a Parquet file: {' '.join(str(error).split())[:200]}") from None
    names = [name for name in read.column_names if not name.startswith("__index_level_")]
    if not read.num_rows or not names:
        raise UserError(f"{file} has {len(names):,} columns and {read.num_rows:,} rows.")
    meanings = {name: _meaning(read.schema.field(name).type) for name in names}
    if odd := [f"'{name}' ({read.schema.field(name).type})" for name in names if not meanings[name]]:
        raise UserError(
            f"{file} has columns that are no numbers, dates or texts: {', '.join(odd)}.",
            "Write the table without them.",
        )
    columns = [_cells(read.column(name)) for name in names]
    rows = list(map(list, zip(*columns, strict=True)))
    return Table(file, tuple(names), rows, list(range(1, len(rows) + 1)), meanings, "row")


def _meaning(kind: pyarrow.DataType) -> str:
    """Return the meaning of a type: number, date or text; empty for other types."""
    if types.is_dictionary(kind):
        return _meaning(kind.value_type)
    if types.is_integer(kind) or types.is_floating(kind) or types.is_decimal(kind) or types.is_boolean(kind):
        return "number"
    if types.is_date(kind) or types.is_timestamp(kind):
        return "date"
    return "text" if types.is_string(kind) or types.is_large_string(kind) or types.is_null(kind) else ""


def _cells(column: pyarrow.ChunkedArray) -> list[str]:
    kind = column.type
    if types.is_dictionary(kind):
        column, kind = column.cast(kind.value_type), kind.value_type
    if types.is_boolean(kind):  # 0 and 1
        column = column.cast(pyarrow.int8())
    return [cell or "" for cell in column.cast(pyarrow.string()).to_pylist()]
