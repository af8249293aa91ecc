"""Ctrl-C and SIGTERM while a network trains: asked once it stops behind a checkpoint, asked twice it leaves at once."""

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Generator
from types import FrameType

TOLD = b"\ntorchmill: stopping behind a checkpoint; once more leaves at once.\n"


@contextlib.contextmanager
def stop_signals() -> Generator[Callable[[], bool]]:
    """Give a function that tells whether to stop; what was asked for happens when the block is left.

    An exception in the middle of a step would leave weights, optimizer and schedule at odds with one another.
    """
    from torchmill.components.training.fit import Stopped

    if threading.current_thread() is not threading.main_thread():  # only that one gets signals
        yield lambda: False
        return
    received: list[int] = []

    def remember(number: int, _: FrameType | None) -> None:
        if received:
            os._exit(128 + number)
        received.append(number)
        os.write(2, TOLD)  # not by the log: the signal may have come while that holds its locks

    # One that is ignored, as SIGINT is in a shell's background jobs, stays ignored.
    heard = [number for number in (signal.SIGINT, signal.SIGTERM) if signal.getsignal(number) != signal.SIG_IGN]
    before = {number: signal.signal(number, remember) for number in heard}
    try:
        with contextlib.suppress(Stopped):
            yield lambda: bool(received)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if received:
        signal.raise_signal(received[0])  # Prefect's handler, or Python's, does with it what it does everywhere else
        raise KeyboardInterrupt
