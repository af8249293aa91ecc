"""Where the time of a training goes: a few of its steps under torch's profiler."""

import contextlib
from collections.abc import Callable, Generator
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile, schedule

from torchmill.components.files import write_atomically, write_text

LEFT_OUT, WARM, STEPS = 3, 2, 10
"""The first steps make what later ones find made; then the profiler itself warms up; then so many are recorded."""
ROWS = 25


@contextlib.contextmanager
def profiled(folder: Path, device: torch.device) -> Generator[Callable[[], None]]:
    """Record the operations of some steps; writes ``profile.json`` (a trace, for chrome://tracing or Perfetto) and
    ``profile.txt`` (a table of operations by the time they take) into ``folder``.

    Gives what is to be called after each step. Where there are fewer steps than wanted, nothing is written.
    """
    activities = [ProfilerActivity.CPU]
    if device.type == "cuda":
        activities.append(ProfilerActivity.CUDA)

    def write(recorded: profile) -> None:
        by = f"self_{'cpu' if device.type == 'cpu' else device.type}_time_total"
        table = recorded.key_averages().table(sort_by=by, row_limit=ROWS, max_name_column_width=60)
        write_text(folder / "profile.txt", f"{STEPS} steps, the first {LEFT_OUT + WARM} left out\n\n{table}\n")
        write_atomically(folder / "profile.json", lambda partial: recorded.export_chrome_trace(str(partial)))

    course = schedule(wait=LEFT_OUT, warmup=WARM, active=STEPS, repeat=1)
    with profile(activities=activities, schedule=course, on_trace_ready=write) as profiler:
        yield profiler.step
