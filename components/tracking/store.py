"""MLflow's SQLite database: created once, checked, followed when its folder moves."""

import contextlib
import importlib
import logging
import os
import sqlite3
from collections.abc import Generator
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from torchmill.components.errors import Unreachable, UserError
from torchmill.components.files import locked
from torchmill.components.processes import python_command
from torchmill.components.runs.folders import Runs

# Neither MLflow nor onnxruntime, which it imports, is to report to its vendor from here, nor to draw bars.
SILENCE = {"MLFLOW_DISABLE_TELEMETRY": "true", "ORT_DISABLE_TELEMETRY": "1", "DO_NOT_TRACK": "1"}

SILENCE["MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR"] = "false"


def map_tables() -> None:
    """Have SQLAlchemy map MLflow's tables, which it would do at the first query, for a quarter of a second."""
    importlib.import_module("mlflow.store.tracking.sqlalchemy_store")
    importlib.import_module("sqlalchemy.orm").configure_mappers()


def database_uri(runs: Runs) -> str:
    """MLflow's name for its SQLite file."""
    return f"sqlite:///{runs.database}"


def ui_command(runs: Runs, port: int) -> list[str]:
    """The MLflow server over the SQLite file, with its UI, on a port of this machine."""
    return [
        *python_command("-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"),
        *("--backend-store-uri", database_uri(runs), "--artifacts-destination", str(runs.artifacts)),
    ]


def ui_environment() -> dict[str, str]:
    """Settings of the MLflow server."""
    # Jobs are for evaluations of language models: eight processes and 700 MB that nothing here uses.
    settings = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", **SILENCE}
    return {key: value for key, value in os.environ.items() if key != "MLFLOW_TRACKING_URI"} | settings


def create_database(runs: Runs) -> None:
    """Create MLflow's SQLite file where there is none.

    MLflow's own way breaks the file for good when two processes come first, or when one is killed meanwhile. So it
    is made under a lock and another name, and appears when it is whole; with a write-ahead log, which halves
    the cost of a write.

    Raises:
        UserError: there is a file, but it is damaged or of another MLflow.
    """
    with locked(runs.work / "mlflow.lock"):
        if not runs.database.exists():
            partial = runs.folder / ".mlflow.db.partial"
            for leftover in runs.folder.glob(".mlflow.db.partial*"):
                leftover.unlink()
            from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

            logging.getLogger("mlflow.store.db.utils").setLevel(logging.WARNING)  # it tells of each of its tables
            store = SqlAlchemyStore(f"sqlite:///{partial}", runs.artifacts.as_uri())
            store.engine.dispose()
            with contextlib.closing(sqlite3.connect(partial)) as connection:
                connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
                connection.execute("PRAGMA journal_mode=WAL")
            for log in (runs.folder / ".mlflow.db.partial-wal", runs.folder / ".mlflow.db.partial-shm"):
                log.unlink(missing_ok=True)
            partial.replace(runs.database)
    check_database(runs)


def check_database(runs: Runs) -> None:
    """Look whether MLflow's SQLite file, where there is one, is one.

    Raises:
        UserError: it is damaged or cannot be written.
    """
    if not runs.database.exists():
        return
    aside = f"Move {runs.database} away (a new one is made; artifacts stay), restore a copy, or give another --runs."
    try:
        with contextlib.closing(sqlite3.connect(runs.database, timeout=60)) as connection:
            # It reads every page: a moment for what most have, too long for gigabytes.
            small = runs.database.stat().st_size < 100e6
            healthy = not small or connection.execute("PRAGMA quick_check(1)").fetchone() == ("ok",)
            tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    except sqlite3.OperationalError as error:
        raise UserError(f"Cannot use {runs.database}: {error}.", "Is it writable? Or give another --runs.") from error
    except sqlite3.DatabaseError as error:
        raise UserError(f"{runs.database} is damaged: {error}.", aside) from error
    if not healthy or not {"runs", "experiments", "alembic_version"} <= tables:
        raise UserError(f"{runs.database} is damaged: it is not an MLflow database.", aside)


@contextlib.contextmanager
def open_client(runs: Runs) -> Generator[Any]:
    """Give MLflow's client.

    Raises:
        UserError: MLflow can't be used while it is held.
    """
    be_silent()
    import mlflow

    try:
        yield mlflow.MlflowClient(os.environ.get("MLFLOW_TRACKING_URI") or database_uri(runs))
    except UserError:
        raise
    except Exception as error:  # whatever MLflow, its database or the network says
        server = os.environ.get("MLFLOW_TRACKING_URI", "")
        kind = Unreachable if server else UserError
        where = f"at {server}" if server else f"in {runs.database}"
        raise kind(f"MLflow {where} cannot be used: {short_reason(error)}") from error


def be_silent() -> None:
    """Set what MLflow reads when it is imported and when it calls a server."""
    for name, value in SILENCE.items():
        os.environ[name] = value
    # It tries again by itself; a call that hangs must not hold up the others for long.
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
    logging.getLogger("mlflow").setLevel(logging.WARNING)


# What holds addresses of artifacts in MLflow's tables, and of runs' folders.
ADDRESSES = (
    ("experiments", "artifact_location"),
    ("runs", "artifact_uri"),
    ("model_versions", "source"),
    ("model_versions", "storage_location"),
    ("logged_models", "artifact_location"),
)


def moved_from(runs: Runs) -> list[str]:
    """Former folders of these runs which MLflow's SQLite file still names: it was moved, or copied, from there."""
    if not runs.database.exists():
        return []
    with contextlib.closing(sqlite3.connect(runs.database, timeout=60)) as connection:
        named = connection.execute("SELECT artifact_location FROM experiments").fetchall()
    former = {location.rpartition("/artifacts/")[0] for (location,) in named if location.startswith("file://")}
    return sorted(folder for folder in former if folder and not _is_same(folder, runs.folder))


def _is_same(address: str, folder: Path) -> bool:
    path = Path(unquote(address.removeprefix("file://")))
    return path == folder or (path.exists() and path.samefile(folder))


def relocate(runs: Runs) -> list[str]:
    """Let MLflow's SQLite file name the folder where it is, and no former one; gives the former ones.

    Otherwise artifacts would be looked for, and new ones be written, where the folder was.
    """
    former = moved_from(runs)
    if former:
        now = runs.folder.as_uri()
        with contextlib.closing(sqlite3.connect(runs.database, timeout=60)) as connection, connection:
            for old in former:
                pairs = [(table, column, f"{old}/artifacts", f"{now}/artifacts") for table, column in ADDRESSES]
                path = unquote(old.removeprefix("file://"))
                for table, column, before, after in (*pairs, ("tags", "value", f"{path}/work/", f"{runs.work}/")):
                    connection.execute(
                        f"UPDATE {table} SET {column} = ? || substr({column}, ?) WHERE substr({column}, 1, ?) = ?",
                        (after, len(before) + 1, len(before), before),
                    )
    return former


def short_reason(error: Exception) -> str:
    """What an error says, without the layers of those who passed it on."""
    text = " ".join(str(error).split())
    for sign, words in {"Read timed out": "it does not answer", "Connection refused": "connection refused"}.items():
        if sign in text:
            return words
    return text[:400]
