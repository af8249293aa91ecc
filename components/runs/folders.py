"""Folders of Torchmill's files: the runs' and the data cache."""

import os
import shutil
import stat
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from torchmill.components.errors import UserError
from torchmill.components.files import current_umask
from torchmill.components.state_files import is_file_name

LEAST_FREE_BYTES = 50e6
"""Disk space of a small run: two databases of 2 MB, weights, a checkpoint and an ONNX file."""


@dataclass(frozen=True)
class Runs:
    """The folder with all files of runs: ``--runs``, ``TORCHMILL_RUNS`` or ``./mlruns``."""

    folder: Path

    @classmethod
    def here(cls) -> "Runs":
        """Return the runs that the environment or the current folder names."""
        return cls(Path(os.environ.get("TORCHMILL_RUNS") or "mlruns").expanduser().absolute())

    @property
    def database(self) -> Path:
        """MLflow's SQLite file."""
        return self.folder / "mlflow.db"

    @property
    def artifacts(self) -> Path:
        """Folder of MLflow's artifacts."""
        return self.folder / "artifacts"

    @property
    def prefect(self) -> Path:
        """Home of the Prefect server that Torchmill starts: its database and settings."""
        return self.folder / "prefect"

    @property
    def prefect_database(self) -> Path:
        """SQLite file of that server."""
        return self.prefect / "prefect.db"

    @property
    def work(self) -> Path:
        """Folder with a folder per run for its steps' files, and with the locks and states of services."""
        return self.folder / "work"

    def ready(self) -> "Runs":
        """Create the folders, and return itself.

        No other user may enter a new folder. One that its group may write to is shared: what this process and its
        children write there is the group's, too, whatever their umask says.

        Raises:
            UserError: the folder cannot be written to, or its disk is full.
        """
        try:
            _make(self.folder)
            if is_shared(self.folder):
                os.umask(current_umask() & ~stat.S_IRWXG)
            self.work.mkdir(exist_ok=True)
            self.artifacts.mkdir(exist_ok=True)
            probe = self.work / f".writable-{os.getpid()}"
            probe.touch()
            probe.unlink()
            free = shutil.disk_usage(self.folder).free
        except OSError as error:
            raise UserError(
                f"Cannot write to {self.folder}: {error.strerror or error}.",
                "Give another folder with --runs DIR or TORCHMILL_RUNS.",
            ) from error
        if free < LEAST_FREE_BYTES:
            raise UserError(
                f"The disk of {self.folder} is full: {free / 1e6:.0f} MB are left, "
                f"and a run needs {LEAST_FREE_BYTES / 1e6:.0f}.",
                "Free some space, or give another folder with --runs DIR or TORCHMILL_RUNS.",
            )
        return self


def is_shared(folder: Path) -> bool:
    """Return True if a folder was made for a group: the group may write to it."""
    return bool(folder.stat().st_mode & stat.S_IWGRP)


def _make(folder: Path) -> None:
    """Create a folder for its owner alone; within a group's folder, for that group."""
    if folder.is_dir():
        return
    folder.parent.mkdir(parents=True, exist_ok=True)
    parent = folder.parent.stat().st_mode
    is_groups = parent & stat.S_ISGID and parent & stat.S_IWGRP and not current_umask() & stat.S_IWGRP
    folder.mkdir(mode=0o770 if is_groups else 0o700, exist_ok=True)


def below(folder: Path, *names: str) -> Path:
    """Return a path below a folder. Its names come from a server, so each must be a plain file name.

    Raises:
        UserError: a name would lead elsewhere, as ``../evil`` does.

    Example:
        >>> below(Path("mlruns/work"), "models", "digits-cnn", "7").as_posix()
        'mlruns/work/models/digits-cnn/7'
    """
    for name in names:
        if not is_file_name(name) or "\\" in name:
            message = f"{name!r} comes from a server as the name of a run, model or version, and is no plain name."
            raise UserError(message, "It was not used. Whose server is it?")
    return folder.joinpath(*names)


def sqlite_uri(file: Path, driver: str = "") -> str:
    """Return an SQLite file's URI, as SQLAlchemy takes it.

    SQLAlchemy ends a plain path at its first "?", so a path with odd characters is written in SQLite's own syntax
    of URIs, with these quoted. The driver is named then, since MLflow makes a folder ``file:`` of the rest otherwise.

    Example:
        >>> sqlite_uri(Path("/data/a?b/mlflow.db"))
        'sqlite+pysqlite:///file:/data/a%3Fb/mlflow.db?uri=true'
    """
    path = str(file)
    if set(path) & set("?#%"):
        return f"sqlite+{driver or 'pysqlite'}:///file:{quote(path)}?uri=true"
    return f"sqlite+{driver}:///{path}" if driver else f"sqlite:///{path}"


def data_cache() -> Path:
    """Return the folder of downloaded and prepared data: ``TORCHMILL_DATA`` or ``~/.cache/torchmill``."""
    folder = os.environ.get("TORCHMILL_DATA")
    if folder:
        return Path(folder).expanduser().absolute()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "torchmill"
