"""Ctrl-C and SIGTERM during a training: the first stops after a checkpoint, the second exits at once."""

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Generator
from types import FrameType

MESSAGE = b"\ntorchmill: stopping after a checkpoint; press again to exit at once.\n"


@contextlib.contextmanager
def stop_signals() -> Generator[Callable[[], bool]]:
    """Yield a function that returns True once a signal came; raise the signal again when the block ends.

    An exception in the middle of a step would leave weights, optimizer and schedule out of step with each other.
    """
    from torchmill.components.training.fit import Stopped

    if threading.current_thread() is not threading.main_thread():  # Python handles signals there alone
        yield lambda: False
        return
    received: list[int] = []

    def remember(number: int, _: FrameType | None) -> None:
        if received:
            os._exit(128 + number)
        received.append(number)
        os.write(2, MESSAGE)  # logging could deadlock: the signal may interrupt a handler that holds its lock

    # A signal that is ignored, as SIGINT is in a shell's background jobs, stays ignored.
    numbers = [number for number in (signal.SIGINT, signal.SIGTERM) if signal.getsignal(number) != signal.SIG_IGN]
    before = {number: signal.signal(number, remember) for number in numbers}
    try:
        with contextlib.suppress(Stopped):
            yield lambda: bool(received)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if received:
        signal.raise_signal(received[0])  # for Prefect's handler, or Python's
        raise KeyboardInterrupt
