"""Errors while a journal is delivered: whether MLflow refused the record, and the message for the user."""

import json
from dataclasses import dataclass

from torchmill.components.errors import Unreachable, UserError
from torchmill.components.runs.folders import Runs
from torchmill.components.tracking.client import short_reason
from torchmill.components.tracking.database import database_uri

REFUSALS = ("INVALID_PARAMETER_VALUE", "BAD_REQUEST", "PERMISSION_DENIED", "RESOURCE_DOES_NOT_EXIST", "INVALID_STATE")
"""MLflow's error codes for requests that it will never accept."""


def is_refusal(error: Exception) -> bool:
    """Return True if MLflow has answered, and will answer the same when asked again."""
    from mlflow.exceptions import MlflowException
    from requests import HTTPError, JSONDecodeError

    # Faults in the code, ours or MLflow's: waiting doesn't mend them. A server that stumbles may answer no JSON.
    if isinstance(error, FileNotFoundError | LookupError | TypeError | AttributeError | AssertionError):
        return True
    if isinstance(error, ValueError) and not isinstance(error, JSONDecodeError | json.JSONDecodeError):
        return True
    if isinstance(error, HTTPError) and error.response is not None:
        return 400 <= error.response.status_code < 500
    return isinstance(error, MlflowException) and error.error_code in REFUSALS


@dataclass(frozen=True)
class Explanation:
    """An error in words."""

    message: str
    remedy: str
    is_unreachable: bool
    """True if a server did not answer, so that the same may work later."""


def explain(error: Exception, runs: Runs, server: str) -> Explanation:
    """Return an error of MLflow, its database or the disk in words.

    Args:
        server: address of the MLflow server; empty for the SQLite file of the runs.
    """
    if isinstance(error, UserError):
        return Explanation(error.message, error.remedy, isinstance(error, Unreachable))
    text = short_reason(error)
    if isinstance(error, OSError) and error.filename and not server:
        return Explanation(f"Cannot write {error.filename}: {error.strerror}.", "Is the disk full or read-only?", False)
    if "out-of-date database schema" in text:
        remedy = f"Upgrade it with: .venv/bin/mlflow db upgrade {database_uri(runs)}"
        return Explanation(f"{runs.database} was made by another version of MLflow.", remedy, False)
    if any(words in text for words in ("malformed", "not a database", "disk I/O error")):
        remedy = "Move it away, restore a copy, or give another --runs."
        return Explanation(f"{runs.database} is damaged: {text}", remedy, False)
    if "readonly database" in text or "database or disk is full" in text:
        return Explanation(f"Cannot write {runs.database}: {text}", "Is the disk full or read-only?", False)
    place = f"at {server}" if server else f"in {runs.database}"
    remedy = "Is MLFLOW_TRACKING_URI right, and is the server up?" if server else ""
    return Explanation(f"MLflow {place} did not take the run: {text}", remedy, bool(server))
