"""Facts about the ``torchmill up`` of a folder, from the files and the lock that it keeps there."""

import os
from pathlib import Path

from torchmill.components.files import locked, read_state
from torchmill.components.runs.folders import Runs
from torchmill.components.wording import without_passwords
from torchmill.flows.services.processes import answers

DEFAULT_ADDRESSES = {"prefect": "http://127.0.0.1:4200", "mlflow": "http://127.0.0.1:5000"}


def state_file(runs: Runs) -> Path:
    """Return the file with the addresses of the services; it outlives them."""
    return runs.work / "up.json"


def shared_server_file(runs: Runs) -> Path:
    """Return the file with the address of the Prefect server that runs share while no ``torchmill up`` runs."""
    return runs.work / "prefect.json"


def lock_file(runs: Runs) -> Path:
    """Return the file that ``torchmill up`` holds a lock on as long as it lives."""
    return runs.work / "up.lock"


def is_running(runs: Runs) -> bool:
    """Return True while a ``torchmill up`` of this folder runs."""
    with locked(lock_file(runs), wait=False) as is_free:
        return not is_free


def ui_address(runs: Runs, service: str) -> str:
    """Return the address of this folder's Prefect or MLflow UI, now or when ``torchmill up`` runs."""
    return read_state(state_file(runs)).get(service) or DEFAULT_ADDRESSES[service]


def mlflow_ui(runs: Runs) -> str | None:
    """Return the address of an MLflow UI that shows this folder's runs now, or None.

    The address from the last ``torchmill up`` doesn't count: another program may have its port by now.
    """
    if server := os.environ.get("MLFLOW_TRACKING_URI"):
        return without_passwords(server).rstrip("/") if server.startswith("http") else None
    address = read_state(state_file(runs)).get("mlflow")
    return address if address and is_running(runs) and answers(f"{address}/health") else None
