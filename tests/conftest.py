import gc
import os
import sys
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest

from tests.started_processes import use_default_signals, watch_this_process

ROOT = Path(__file__).parent.parent

# Before anything imports torch, and for all that tests start: its threads, where they wait, leave the processor to
# others. They spin by default, which makes several processes on a few processors ten times slower.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

use_default_signals()


def pytest_configure() -> None:
    watch_this_process()


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Import the tests and all that they import in less time: each worker does it.

    Their bytecode is kept, even where Python is told not to keep any; that of modules which tests write is not. Garbage
    is collected afterwards alone, which takes a fifth of the imports' time.
    """
    before, sys.dont_write_bytecode = sys.dont_write_bytecode, False
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()
        sys.dont_write_bytecode = before


def pytest_unconfigure() -> None:
    gc.unfreeze()  # libraries look at the end whether their objects have gone


@pytest.fixture(autouse=True)
def _collected() -> Iterator[None]:
    """Collect a test's garbage at its end, so that what it left open is its own failure and not a later test's.

    What survives is frozen: a collection looks at the objects of one test alone, which takes milliseconds.
    """
    yield
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def datasets() -> Path:
    """The folder with the real MNIST; a test that needs it is skipped where it isn't there."""
    folder = Path(os.environ.get("TORCHMILL_TEST_DATASETS") or ROOT.parent / "shared" / "datasets")
    if not (folder / "mnist" / "train-images-idx3-ubyte.gz").exists():
        pytest.skip(f"the real MNIST is not at {folder}: set TORCHMILL_TEST_DATASETS to a folder with mnist/*.gz")
    return folder
