"""Imports of the prewarmed process: the modules that commands need, and further ones that they have imported."""

import importlib
import pkgutil
import sys
import sysconfig
from pathlib import Path

from torchmill.components.files import append_to
from torchmill.components.state_files import read_lines
from torchmill.flows.services.prefect_server import silence_prefect

_tried: set[str] = set()
"""Modules from the file of learned ones, whether or not they could be imported."""


def import_all() -> None:
    """Import what commands need, in the way they do."""
    from torchmill.components import tracking

    silence_prefect()
    tracking.silence_mlflow()
    for package in ("torchmill.components", "torchmill.flows"):
        folder = importlib.import_module(package).__path__
        for module in pkgutil.walk_packages(folder, f"{package}."):
            if not module.name.endswith("__main__"):
                importlib.import_module(module.name)
    from torchmill.components.evaluation import evaluate
    from torchmill.components.export import to_onnx

    for name in (*evaluate.NEEDED, *to_onnx.NEEDED, *tracking.RECORDER_IMPORTS):
        importlib.import_module(name)
    tracking.map_tables()


def import_learned(file: Path) -> int:
    """Import the further modules that commands have imported, and return the number of new ones."""
    count = 0
    for name in b"\n".join(read_lines(file)).decode(errors="replace").split():
        if name in _tried or not all(part.isidentifier() for part in name.split(".")):
            continue
        _tried.add(name)
        try:
            importlib.import_module(name)
            count += 1
        except Exception as error:  # of another version, maybe: a command that needs it shows the error
            print(f"{name} cannot be imported: {error}", flush=True)
    return count


def learn(file: Path, before: set[str]) -> None:
    """Append the libraries' modules that this process has imported to a file.

    Args:
        before: modules that were imported at the start. A user's own are never noted: they change.
    """
    paths = sysconfig.get_paths()
    folders = tuple(paths[name] for name in ("stdlib", "platstdlib", "purelib", "platlib"))
    new = [
        name
        for name, module in tuple(sys.modules.items())
        if name not in before
        and not name.startswith("openvino")  # some of its modules report to their vendor when they are imported
        and str(getattr(module, "__dict__", {}).get("__file__")).startswith(folders)
    ]
    if new:
        with append_to(file) as output:
            output.write(f"{' '.join(new)}\n".encode())
