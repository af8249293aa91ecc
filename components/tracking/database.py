"""MLflow's SQLite file: created once, checked for damage, corrected after its folder was moved."""

import contextlib
import importlib
import logging
import sqlite3
from pathlib import Path
from urllib.parse import unquote

from torchmill.components.errors import UserError
from torchmill.components.files import locked
from torchmill.components.runs.folders import Runs, sqlite_uri

QUICK_CHECK_BYTES = 100e6
"""Size up to which the file's pages are checked; more would take seconds."""

ADDRESSES = (
    ("experiments", "artifact_location"),
    ("runs", "artifact_uri"),
    ("model_versions", "source"),
    ("model_versions", "storage_location"),
    ("logged_models", "artifact_location"),
)
"""Tables and columns with addresses of artifacts."""


def database_uri(runs: Runs) -> str:
    """Return the SQLite file's URI, as MLflow takes it."""
    return sqlite_uri(runs.database)


def map_tables() -> None:
    """Map MLflow's tables in SQLAlchemy now; at the first query it would cost a quarter of a second."""
    importlib.import_module("mlflow.store.tracking.sqlalchemy_store")
    importlib.import_module("sqlalchemy.orm").configure_mappers()


def create_database(runs: Runs) -> None:
    """Create MLflow's SQLite file, unless it exists.

    MLflow itself breaks the file for good if two processes create it at once, or if one is killed meanwhile. So it
    is created under a lock and another name, and renamed when it is complete. A write-ahead log halves the cost of
    a write.

    Raises:
        UserError: the file exists, but is damaged or belongs to another MLflow.
    """
    with locked(runs.work / "mlflow.lock"):
        if not runs.database.exists():
            partial = runs.folder / ".mlflow.db.partial"
            for leftover in runs.folder.glob(".mlflow.db.partial*"):
                leftover.unlink()
            partial.touch()  # with the user's umask: SQLite by itself lets no group write
            from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

            logging.getLogger("mlflow.store.db.utils").setLevel(logging.WARNING)  # it logs a line per table
            store = SqlAlchemyStore(sqlite_uri(partial), runs.artifacts.as_uri())
            store.engine.dispose()
            with contextlib.closing(sqlite3.connect(partial)) as connection:
                connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
                connection.execute("PRAGMA journal_mode=WAL")
            for log in (runs.folder / ".mlflow.db.partial-wal", runs.folder / ".mlflow.db.partial-shm"):
                log.unlink(missing_ok=True)
            partial.replace(runs.database)
    check_database(runs)


def check_database(runs: Runs) -> None:
    """Check that MLflow's SQLite file, if it exists, is sound.

    Raises:
        UserError: it is damaged or cannot be written.
    """
    if not runs.database.exists():
        return
    remedy = f"Move {runs.database} away (a new one is made; artifacts stay), restore a copy, or give another --runs."
    try:
        with contextlib.closing(sqlite3.connect(runs.database, timeout=60)) as connection:
            is_small = runs.database.stat().st_size < QUICK_CHECK_BYTES
            is_sound = not is_small or connection.execute("PRAGMA quick_check(1)").fetchone() == ("ok",)
            tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    except sqlite3.OperationalError as error:
        raise UserError(f"Cannot use {runs.database}: {error}.", "Is it writable? Or give another --runs.") from error
    except sqlite3.DatabaseError as error:
        raise UserError(f"{runs.database} is damaged: {error}.", remedy) from error
    if not is_sound or not {"runs", "experiments", "alembic_version"} <= tables:
        raise UserError(f"{runs.database} is damaged: it is not an MLflow database.", remedy)


def relocate(runs: Runs) -> list[str]:
    """Correct the addresses in MLflow's SQLite file after the runs' folder was moved; return its former addresses.

    With the former addresses, artifacts would be read from and written to the old folder.
    """
    former = former_addresses(runs)
    if former:
        present = runs.folder.as_uri()
        with contextlib.closing(sqlite3.connect(runs.database, timeout=60)) as connection, connection:
            for address in former:
                uris = [(table, column, f"{address}/artifacts", f"{present}/artifacts") for table, column in ADDRESSES]
                path = unquote(address.removeprefix("file://"))
                for table, column, before, after in (*uris, ("tags", "value", f"{path}/work/", f"{runs.work}/")):
                    connection.execute(
                        f"UPDATE {table} SET {column} = ? || substr({column}, ?) WHERE substr({column}, 1, ?) = ?",
                        (after, len(before) + 1, len(before), before),
                    )
    return former


def former_addresses(runs: Runs) -> list[str]:
    """Return the folders, as URIs, from which these runs were moved or copied, and which MLflow still names."""
    if not runs.database.exists():
        return []
    with contextlib.closing(sqlite3.connect(runs.database, timeout=60)) as connection:
        rows = connection.execute("SELECT artifact_location FROM experiments").fetchall()
    folders = {location.rpartition("/artifacts/")[0] for (location,) in rows if location.startswith("file://")}
    return sorted(folder for folder in folders if folder and not _is_same(folder, runs.folder))


def _is_same(address: str, folder: Path) -> bool:
    path = Path(unquote(address.removeprefix("file://")))
    return path == folder or (path.exists() and path.samefile(folder))
