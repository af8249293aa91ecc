"""Log lines that may be shown anywhere: no passwords in addresses, and no control characters in names."""

import logging
from pathlib import Path

from torchmill.components.wording import printable, without_passwords


def clean(record: logging.LogRecord) -> bool:
    """Rewrite a record, as a filter of logging. Names stay in one line, so that none can pass for another record.

    Example:
        >>> logging.getLogger("torchmill").addFilter(clean)
    """
    if isinstance(record.args, tuple):
        record.args = tuple(
            printable(str(value), keep="\t") if isinstance(value, str | Path) else value for value in record.args
        )
    record.msg, record.args = without_passwords(printable(record.getMessage())), ()
    return True
