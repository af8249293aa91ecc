"""How many threads of the processor there are for us. Imports no torch."""

import math
import os
from pathlib import Path


def processors() -> int:
    """Processors this process may use: what its affinity and its control group leave it of the machine's."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:  # cgroup v2: "max 100000" or "150000 100000", microseconds of processor time per period
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
    except (OSError, ValueError):
        return allowed
    return allowed if quota == "max" else max(1, min(allowed, math.ceil(int(quota) / int(period))))
