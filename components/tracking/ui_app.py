"""The application of MLflow's server behind a guard. ``mlflow server --app-name torchmill`` finds it."""

import os

from torchmill.components.local_access.guard import CREDENTIALS, Guard

OPEN_PATHS = ("/health",)


def create_app() -> Guard:
    """Return MLflow's API and UI, for those who have the credentials in the environment."""
    from mlflow.server.fastapi_app import app

    return Guard(app, os.environ[CREDENTIALS], OPEN_PATHS)
