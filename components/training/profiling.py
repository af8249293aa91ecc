"""Profile of a training: a few steps under torch's profiler."""

import contextlib
from collections.abc import Callable, Generator
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile, schedule

from torchmill.components.files import write_atomically, write_text

SKIPPED_STEPS = 3
"""First steps, which are slower because they allocate memory and compile."""
WARMUP_STEPS = 2
"""Steps for the profiler's own warm-up."""
RECORDED_STEPS = 10
TABLE_ROWS = 25


@contextlib.contextmanager
def profiled(folder: Path, device: torch.device) -> Generator[Callable[[], None]]:
    """Profile some steps, and write ``profile.json`` and ``profile.txt`` into ``folder``.

    The first is a trace for chrome://tracing or Perfetto, the second a table of operations by their time. A training
    that is too short writes neither.

    Yields:
        A function to call after each step.
    """
    activities = [ProfilerActivity.CPU]
    if device.type == "cuda":
        activities.append(ProfilerActivity.CUDA)

    def write(profiler: profile) -> None:
        by = f"self_{'cpu' if device.type == 'cpu' else device.type}_time_total"
        table = profiler.key_averages().table(sort_by=by, row_limit=TABLE_ROWS, max_name_column_width=60)
        title = f"{RECORDED_STEPS} steps, after the first {SKIPPED_STEPS + WARMUP_STEPS}"
        write_text(folder / "profile.txt", f"{title}\n\n{table}\n")
        write_atomically(folder / "profile.json", lambda partial: profiler.export_chrome_trace(str(partial)))

    steps = schedule(wait=SKIPPED_STEPS, warmup=WARMUP_STEPS, active=RECORDED_STEPS, repeat=1)
    with profile(activities=activities, schedule=steps, on_trace_ready=write) as profiler:
        yield profiler.step
