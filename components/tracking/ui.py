"""The MLflow server over the SQLite file of the runs, with its UI."""

import os
from importlib.metadata import entry_points

from torchmill.components.errors import UserError
from torchmill.components.local_access.guard import CREDENTIALS
from torchmill.components.local_access.key import credentials
from torchmill.components.processes import python_command
from torchmill.components.runs.folders import Runs
from torchmill.components.tracking.client import NO_TELEMETRY
from torchmill.components.tracking.database import database_uri

APP = "torchmill"


def ui_command(runs: Runs, port: int) -> list[str]:
    """Return the command that starts the server on a port of this machine.

    Raises:
        UserError: Torchmill was installed before it had a guard for the server, and MLflow cannot find that.
    """
    if not entry_points(group="mlflow.app", name=APP):
        raise UserError("This installation of Torchmill is of an earlier version.", "Install it anew: pip install -e .")
    return [
        *python_command("-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"),
        *("--backend-store-uri", database_uri(runs), "--artifacts-destination", str(runs.artifacts)),
        *("--app-name", APP),  # ui_app.py, an entry point of the package
    ]


def ui_environment(runs: Runs) -> dict[str, str]:
    """Return the server's environment."""
    # Jobs evaluate language models: they start eight processes and take 700 MB that nothing here uses.
    settings = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", CREDENTIALS: credentials(runs), **NO_TELEMETRY}
    return {name: value for name, value in os.environ.items() if name != "MLFLOW_TRACKING_URI"} | settings
