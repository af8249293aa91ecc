"""Progress of downloads and other long work: a bar on a terminal, one line in a log."""

import contextlib
import logging
import sys
import time
from collections.abc import Callable, Generator
from typing import TextIO

Report = Callable[[int, int | None, str], None]
"""Function of the bytes so far, the bytes in all (None if unknown), and the sender."""

logger = logging.getLogger("torchmill")


@contextlib.contextmanager
def shown(label: str, stream: TextIO | None = None) -> Generator[Report, None, None]:
    """Show the progress of a download on ``stream``, by default standard error."""
    stream = stream or sys.stderr
    with _bar(label, stream) if stream.isatty() else _line(label) as report:
        yield report


@contextlib.contextmanager
def _line(label: str) -> Generator[Report, None, None]:
    started = time.monotonic()
    last = (0, "")

    def report(done_bytes: int, total_bytes: int | None, source: str) -> None:
        nonlocal last
        last = (done_bytes, source)

    yield report
    done_bytes, source = last
    if source:
        seconds = time.monotonic() - started
        logger.info("Downloaded %s, %.2f MB in %.1f s, from %s", label, done_bytes / 1e6, seconds, source)


@contextlib.contextmanager
def _bar(label: str, stream: TextIO) -> Generator[Report, None, None]:
    # Here, since it takes a third of a second: only a download on a terminal needs it.
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, console=Console(file=stream)) as progress:
        task = progress.add_task(label, total=None)

        def report(done_bytes: int, total_bytes: int | None, source: str) -> None:
            progress.update(task, completed=done_bytes, total=total_bytes)

        yield report


@contextlib.contextmanager
def counted(label: str, total: int, stream: TextIO | None = None) -> Generator[Callable[[int], None], None, None]:
    """Show a count up to ``total`` on ``stream``, by default standard error; yield a function that adds to it."""
    stream = stream or sys.stderr
    if not stream.isatty():
        started = time.monotonic()
        yield lambda _: None
        logger.info("%s: %s in %.1f s", label, f"{total:,}", time.monotonic() - started)
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(file=stream)) as progress:
        task = progress.add_task(label, total=total)
        yield lambda done: progress.advance(task, done)
