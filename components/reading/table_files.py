"""Files of tables, in whatever format."""

from pathlib import Path

from torchmill.components.reading.tables import Table, read_table


def read_any_table(file: Path, single: bool = False) -> Table:
    """Read a table, or a Parquet file by its ending.

    Args:
        single: allow a text file of one column.

    Raises:
        UserError: as ``read_table`` and ``read_parquet``.
    """
    if file.suffix.lower() == ".parquet":
        from torchmill.components.reading.parquet import read_parquet  # pyarrow takes a while to import

        return read_parquet(file)
    return read_table(file, single)
