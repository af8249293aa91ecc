"""Standard streams that last: a command goes on if a stream was closed before it began, or if its reader goes."""

import contextlib
import errno
import io
import os
import sys

from torchmill.components.wording import printable

GONE = (errno.EPIPE, errno.EBADF, errno.EIO)
"""Errors of a pipe whose reader has gone, a closed stream, and a terminal that hung up."""


class LastingFile(io.FileIO):
    """A stream's file, which becomes /dev/null once nobody can read it."""

    def write(self, data: "bytes | memoryview") -> int:  # ty: ignore[incompatible-method-override]
        try:
            return super().write(data) or 0
        except OSError as error:
            if error.errno not in GONE:
                raise
            _redirect_to_null(self.fileno())
            return len(data)


class PrintableText(io.TextIOWrapper):
    """A stream in which no name can steer the terminal that shows it."""

    def write(self, text: str) -> int:
        return super().write(printable(text))


def keep_streams() -> None:
    """Open the standard streams that are closed, and let output go nowhere once its reader has gone.

    A file that was opened in the place of a closed stream, for example a database, would get the output instead.
    """
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            _redirect_to_null(number)
    if sys.stdin is None:
        sys.stdin = open(0, closefd=False)  # noqa: SIM115  open until the end
    for name, number in (("stdout", 1), ("stderr", 2)):
        stream = getattr(sys, name)
        if stream is None or (stream is getattr(sys, f"__{name}__") and _number(stream) == number):
            setattr(sys, name, _lasting(stream, number))


def _lasting(stream: io.TextIOWrapper | None, number: int) -> io.TextIOWrapper:
    if stream is not None:
        stream.flush()
    kind = PrintableText if number == 1 else io.TextIOWrapper  # progress bars steer the terminal on stderr
    return kind(
        io.BufferedWriter(LastingFile(number, "w", closefd=False)),  # ty: ignore[invalid-argument-type]
        encoding=stream.encoding if stream else "utf-8",
        errors=(stream.errors if stream else None) or "backslashreplace",
        line_buffering=number == 2 or os.isatty(number),
    )


def _number(stream: io.TextIOWrapper) -> int | None:
    with contextlib.suppress(OSError, ValueError):
        return stream.fileno()


def _redirect_to_null(number: int) -> None:
    null = os.open(os.devnull, os.O_RDWR)
    if null != number:
        os.dup2(null, number)
        os.close(null)
    else:
        os.set_inheritable(number, True)
