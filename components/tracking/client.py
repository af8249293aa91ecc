"""MLflow's client: which MLflow it talks to, without telemetry, with errors in words and within a deadline."""

import contextlib
import logging
import os
import threading
import time
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

from torchmill.components.errors import Unreachable, UserError
from torchmill.components.runs.folders import Runs
from torchmill.components.tracking.database import database_uri
from torchmill.components.wording import without_passwords

NO_TELEMETRY = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "ORT_DISABLE_TELEMETRY": "1",
    "DO_NOT_TRACK": "1",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
}
"""Environment that keeps MLflow, and onnxruntime, which it imports, from reporting home and drawing progress bars."""


def silence_mlflow() -> None:
    """Set the environment that MLflow reads: no telemetry, short time-outs. Call it before importing mlflow."""
    for name, value in NO_TELEMETRY.items():
        os.environ[name] = value
    # The recorder retries; a call that hangs must not block the calls after it.
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
    logging.getLogger("mlflow").setLevel(logging.WARNING)


def server_address() -> str:
    """Return the address of the team's MLflow server; empty if the SQLite file of the runs is used.

    Without a password that the address in the environment may hold: this one is shown and kept.
    """
    return without_passwords(os.environ.get("MLFLOW_TRACKING_URI", ""))


def with_password(server: str) -> str:
    """Return a server's address to connect to: with the password, if the environment's is of this server."""
    address = os.environ.get("MLFLOW_TRACKING_URI", "")
    return address if without_passwords(address) == server else server


def destination(runs: Runs) -> str:
    """Return which MLflow records these runs: the server's address, or the SQLite file within its folder."""
    return server_address() or f"{runs.folder.name}/{runs.database.name}"


def new_client(address: str | None = None) -> Any:
    """Return an ``MlflowClient`` for an address, or for MLflow's own.

    Before each change of a model or version, MLflow makes sure that the model is no prompt, and loads all of its
    versions for that: half a second for 10,000. Those that we change are registered as models.
    """
    import mlflow

    client = mlflow.MlflowClient(address)
    client._raise_if_prompt = lambda name: None  # a version of MLflow without this method is only slower
    return client


@contextlib.contextmanager
def open_client(runs: Runs) -> Generator[Any]:
    """Yield an ``MlflowClient``.

    Raises:
        UserError: MLflow failed within the ``with`` block.
        Unreachable: the same, on a server.
    """
    silence_mlflow()
    server = server_address()
    try:
        yield new_client(with_password(server) or database_uri(runs))
    except UserError:
        raise
    except Exception as error:  # anything that MLflow, its database or the network raises
        kind = Unreachable if server else UserError
        place = f"at {server}" if server else f"in {runs.database}"
        raise kind(f"MLflow {place} cannot be used: {short_reason(error)}") from error


def call_until(deadline: float, work: Callable[[], Path]) -> Path:
    """Call a function that may hang, in a thread that is abandoned at the deadline.

    Args:
        deadline: seconds since 1970.

    Raises:
        UserError: the function didn't return in time.
    """
    results: list[Path | Exception] = []

    def call() -> None:
        try:
            results.append(work())
        except Exception as error:
            results.append(error)

    thread = threading.Thread(target=call, daemon=True)
    thread.start()
    thread.join(max(0.0, deadline - time.time()))
    if not results:
        raise UserError("MLflow did not answer in time.")
    if isinstance(results[0], Exception):
        raise results[0]
    return results[0]


def short_reason(error: Exception) -> str:
    """Return an error's text without the layers that passed it on, 400 characters at most."""
    text = without_passwords(" ".join(str(error).split()))
    for sign, words in {"Read timed out": "it does not answer", "Connection refused": "connection refused"}.items():
        if sign in text:
            return words
    return text[:400]
