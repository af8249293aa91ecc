"""Tags that say where a run ran: library versions, machine, git commit."""

import os
import platform
import sys
from importlib import metadata
from pathlib import Path

from torchmill.components.runs.fingerprint import our_source
from torchmill.components.runs.snapshot import git
from torchmill.components.wording import without_passwords

LIBRARIES = ("torch", "torchvision", "numpy", "onnx", "onnxruntime", "onnxscript", "mlflow", "prefect")


def environment_tags() -> dict[str, str]:
    """Return tags for everything but the configuration that decides or explains a result."""
    tags = {f"version.{name}": metadata.version(name) for name in LIBRARIES}
    tags |= {
        "version.torchmill": metadata.version("torchmill"),
        "version.python": platform.python_version(),
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores",
        "mlflow.source.name": without_passwords(" ".join([_program(), *sys.argv[1:]]))[:500],
        "mlflow.source.type": "LOCAL",
        "torchmill.source": our_source(),
    }
    commit = git("rev-parse", "HEAD")
    if commit:
        tags["mlflow.source.git.commit"] = commit.strip()
        tags["git.dirty"] = str(bool(git("status", "--porcelain"))).lower()
    return tags


def _program() -> str:
    """Return the name of the command that runs; of a package that was started by ``python -m``, the package's."""
    script = Path(sys.argv[0])
    return script.parent.name if script.name == "__main__.py" else script.name
