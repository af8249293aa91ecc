"""Which device a run uses, and how many threads of the processor."""

import math
import os
from pathlib import Path

import torch

from components.errors import UserError


def available() -> list[str]:
    """Kinds of device that this machine has, the best first."""
    kinds = []
    if torch.cuda.is_available():
        kinds.append("cuda")
    if torch.backends.mps.is_available():
        kinds.append("mps")
    if torch.xpu.is_available():
        kinds.append("xpu")
    return [*kinds, "cpu"]


def resolve(name: str) -> torch.device:
    """Give the device of that name; ``auto`` is the first of cuda, mps, xpu, cpu that is there.

    Raises:
        UserError: it was named and isn't there.
    """
    kinds = available()
    if name == "auto":
        return torch.device(kinds[0])
    kind, _, index = name.partition(":")
    if kind not in kinds:
        raise UserError(f"Device {name} is not there; this machine has {', '.join(kinds)}.", "Try --device auto.")
    if index:
        count = torch.cuda.device_count() if kind == "cuda" else torch.xpu.device_count()
        if int(index) >= count:
            raise UserError(f"Device {name} is not there; the last one is {kind}:{count - 1}.", "Try --device auto.")
    return torch.device(name)


def processors() -> int:
    """Processors this process may use: what its affinity and its control group leave it of the machine's."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:  # cgroup v2: "max 100000" or "150000 100000", microseconds of processor time per period
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
    except (OSError, ValueError):
        return allowed
    return allowed if quota == "max" else max(1, min(allowed, math.ceil(int(quota) / int(period))))
