import os
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

# Before anything imports torch, and for all that tests start: its threads, where they wait, leave the processor to
# others. They spin by default, which makes several processes on a few processors ten times slower.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


@pytest.fixture(scope="session")
def datasets() -> Path:
    """The folder with the real MNIST; a test that needs it is skipped where it isn't there."""
    folder = Path(os.environ.get("TORCHMILL_TEST_DATASETS") or ROOT.parent / "shared" / "datasets")
    if not (folder / "mnist" / "train-images-idx3-ubyte.gz").exists():
        pytest.skip(f"the real MNIST is not at {folder}: set TORCHMILL_TEST_DATASETS to a folder with mnist/*.gz")
    return folder
