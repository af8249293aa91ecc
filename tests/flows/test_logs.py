"""A log line shows names, and neither passwords nor what steers a terminal."""

import logging
from pathlib import Path

import pytest

from torchmill.flows.logs import clean


def shown(message: str, *values: object) -> str:
    record = logging.LogRecord("torchmill", logging.INFO, __file__, 1, message, values, None)
    assert clean(record)
    return record.getMessage()


@pytest.mark.parametrize(
    ("message", "values", "line"),
    [
        ("read %s", (Path("a\x1b[31m.png"),), "read a\\x1b[31m.png"),
        ("read %s", ("a.png\n12:00:00  run is done",), "read a.png\\n12:00:00  run is done"),
        ("%d of %5.1f %%", (3, 4.25), "3 of   4.2 %"),
        ("100 % of a line\nand another", (), "100 % of a line\nand another"),
        ("MLflow at %s", ("https://me:secret@example.org/x",), "MLflow at https://example.org/x"),
    ],
)
def test_it_is_clean(message: str, values: tuple[object, ...], line: str):
    assert shown(message, *values) == line
