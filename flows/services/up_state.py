"""Facts about the ``torchmill up`` of a folder, from the files and the lock that it keeps there."""

import os
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from torchmill.components.files import locked
from torchmill.components.runs.folders import Runs
from torchmill.components.state_files import read_json
from torchmill.components.wording import without_passwords
from torchmill.flows.services.processes import answers

DEFAULT_ADDRESSES = {"prefect": "http://127.0.0.1:4200", "mlflow": "http://127.0.0.1:5000"}

Address = Annotated[str, Field(pattern=r"^(https?://[^/\s]+(/\S*)?)?$")]
"""An HTTP address, or nothing."""


Ports = dict[str, Annotated[int, Field(ge=1, le=65_535)]]
"""Ports by service, in ``ports.json``: those of the last time, so that links in runs hold."""


class UpState(BaseModel):
    """Addresses of the services of the last ``torchmill up``, in ``up.json``; the file outlives them."""

    model_config = ConfigDict(frozen=True)

    mlflow: str = ""
    prefect: Address = ""
    prefect_api: Address = ""
    runner: Address = ""
    prewarm: Annotated[str, Field(pattern=r"^[^\x00]*$")] = ""
    """Address of the prewarmed process's socket."""
    pid: int | str = "unknown"
    theirs: tuple[str, ...] = ()
    """Services of the user's, which were not started."""


class SharedServer(BaseModel):
    """The Prefect server that runs share while no ``torchmill up`` runs, in ``prefect.json``."""

    model_config = ConfigDict(frozen=True)

    api: Annotated[str, Field(pattern=r"^http://127\.0\.0\.1:\d{1,5}/api$")]


def state_file(runs: Runs) -> Path:
    """Return the file of the ``UpState``."""
    return runs.work / "up.json"


def read_up_state(runs: Runs) -> UpState:
    """Return the state of the last ``torchmill up``; empty addresses without one."""
    return read_json(state_file(runs), UpState) or UpState()


def shared_server_file(runs: Runs) -> Path:
    """Return the file of the ``SharedServer``."""
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
    return getattr(read_up_state(runs), service) or DEFAULT_ADDRESSES[service]


def mlflow_ui(runs: Runs) -> str | None:
    """Return the address of an MLflow UI that shows this folder's runs now, or None.

    The address from the last ``torchmill up`` doesn't count: another program may have its port by now.
    """
    if server := os.environ.get("MLFLOW_TRACKING_URI"):
        return without_passwords(server).rstrip("/") if server.startswith("http") else None
    address = read_up_state(runs).mlflow
    return address if address and is_running(runs) and answers(f"{address}/health") else None
