"""Tags that describe where a run ran: versions, machine, git."""

import os
import platform
import sys
from importlib import metadata
from pathlib import Path

from torchmill.components.runs.fingerprint import our_source
from torchmill.components.runs.snapshot import git


def circumstances() -> dict[str, str]:
    """What, besides the configuration, decides or explains a result: versions, machine, git commit."""
    libraries = ("torch", "torchvision", "numpy", "onnx", "onnxruntime", "onnxscript", "mlflow", "prefect")
    tags = {f"version.{name}": metadata.version(name) for name in libraries}
    tags |= {
        "version.torchmill": metadata.version("torchmill"),
        "version.python": platform.python_version(),
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores",
        "mlflow.source.name": " ".join([Path(sys.argv[0]).name, *sys.argv[1:]])[:500],
        "mlflow.source.type": "LOCAL",
    }
    tags["torchmill.source"] = our_source()
    commit = git("rev-parse", "HEAD")
    if commit:
        tags["mlflow.source.git.commit"] = commit.strip()
        tags["git.dirty"] = str(bool(git("status", "--porcelain"))).lower()
    return tags
