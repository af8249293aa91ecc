"""Processes of our own: how they are started, and how they use memory."""

import subprocess
import sys

import pytest

BLOCKS = """
import resource, sys
import numpy as np
from torchmill.components.processes import keep_freed_memory
if "keep" in sys.argv:
    keep_freed_memory()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(50):
    np.ones(6_000_000)  # 48 MB: more than glibc keeps by itself
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have other allocators")
def test_memory_that_is_freed_at_each_step_is_asked_for_once():
    with_, without = (
        int(subprocess.run([sys.executable, "-c", BLOCKS, *words], capture_output=True, check=True, text=True).stdout)
        for words in (["keep"], [])
    )
    assert with_ < 0.1 * without
