"""Facts about a process that are fixed at its start: a prewarmed one must have them in common with the command."""

import os
import resource
import sys
from pathlib import Path
from typing import Any

READ_AT_IMPORT = (
    *("CUDA", "CUBLAS", "GOMP", "KMP", "LD_", "MALLOC", "MKL", "MLFLOW", "MPL", "NCCL", "NUMEXPR", "NVIDIA", "OMP"),
    *("OPENBLAS", "ORT_", "PREFECT", "PYTHON", "PYTORCH", "TORCHINDUCTOR", "TORCH_", "TRITON", "XDG", "HOME", "LANG"),
    *("LC_", "TZ", "JEMALLOC", "ARROW"),
)
"""Prefixes of the variables that libraries read when they are imported."""
ROOT = Path(__file__).parents[3]


def start_conditions() -> dict[str, Any]:
    """Return interpreter, libraries, source, environment, limits and rights of this process; JSON."""
    return {
        "python": [sys.executable, sys.version],
        "code": code_state(),
        "environment": {name: value for name, value in os.environ.items() if name.startswith(READ_AT_IMPORT)},
        "limits": {name: resource.getrlimit(number) for name, number in _limits()},
        "processors": sorted(os.sched_getaffinity(0)),
        "niceness": os.nice(0),
        "group": Path("/proc/self/cgroup").read_text(encoding="utf-8"),
        "users": [os.getuid(), os.geteuid(), os.getgid(), os.getegid(), *sorted(os.getgroups())],
    }


def code_state() -> dict[str, int]:
    """Return when the folders of libraries and Torchmill's source were last changed."""
    libraries = {folder: _changed(Path(folder)) for folder in sys.path if folder.endswith("-packages")}
    source = (file for part in ("components", "flows") for file in (ROOT / part).rglob("*.py"))
    return libraries | {str(ROOT): max(map(_changed, source))}


def _changed(path: Path) -> int:
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return 0


def _limits() -> list[tuple[str, int]]:
    return [(name, getattr(resource, name)) for name in dir(resource) if name.startswith("RLIMIT_")]
