"""Too little memory is told in words, at once."""

import shlex
import subprocess
import sys
from pathlib import Path

import pytest


def limited(kilobytes: int, folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = f"ulimit -v {kilobytes}; exec {shlex.quote(sys.executable)} -P -m torchmill {' '.join(arguments)}"
    return subprocess.run(["bash", "-c", command], cwd=folder, capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize("command", ["train", "check", "evaluate last"])
def test_a_limit_that_torch_cannot_work_in_is_told_before_anything_begins(tmp_path: Path, command: str):
    """Below it, numpy's BLAS asks the system for memory for ever."""
    done = limited(3_300_000, tmp_path, *command.split())
    assert done.returncode == 1 and "limited to 3.4 GB (ulimit -v)" in done.stderr and "Traceback" not in done.stderr


def test_a_library_that_cannot_be_loaded_for_lack_of_memory_is_told(tmp_path: Path):
    done = limited(700_000, tmp_path, "models", "torchvision")
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert done.stderr.startswith("torchmill: The system gives no more memory")
