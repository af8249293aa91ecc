"""Small files that keep state between processes: read within bounds, and set aside if they are damaged."""

from torchmill.components.state_files.damage import Damaged, is_file_name, log_once, only_looking, set_aside
from torchmill.components.state_files.reading import (
    MAX_ARRAY_BYTES,
    MAX_BYTES,
    blank_damaged_lines,
    fitting,
    open_file,
    parse_json,
    parse_line,
    read_arrays,
    read_json,
    read_json_lines,
    read_lines,
    require_json,
    validated,
)

__all__ = [
    "MAX_ARRAY_BYTES",
    "MAX_BYTES",
    "Damaged",
    "blank_damaged_lines",
    "fitting",
    "is_file_name",
    "log_once",
    "only_looking",
    "open_file",
    "parse_json",
    "parse_line",
    "read_arrays",
    "read_json",
    "read_json_lines",
    "read_lines",
    "require_json",
    "set_aside",
    "validated",
]
