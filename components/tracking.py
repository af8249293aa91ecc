"""Record runs in MLflow: the only file that knows it.

A run's process appends to a journal on disk; a second process, the recorder, reads the journal and tells MLflow.
So nothing waits for MLflow while a network trains, and a run whose process is killed is still closed.
"""

import contextlib
import gc
import importlib
import json
import logging
import math
import os
import platform
import select
import sqlite3
import subprocess
import sys
import threading
import time
import uuid
import warnings
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from io import BufferedReader
from pathlib import Path
from typing import Any, Literal
from urllib.parse import unquote

from torchmill.components.claims import is_alive
from torchmill.components.comparison import Recorded
from torchmill.components.errors import Unreachable, UserError, nearest
from torchmill.components.files import locked, write_text
from torchmill.components.ingredients import our_source
from torchmill.components.places import Runs
from torchmill.components.processes import python_command, start_python
from torchmill.components.recipe import git
from torchmill.components.refs import DataRef, ExportRef, RunRef, StepRef
from torchmill.components.registry import CHALLENGER, CHAMPION, Champions, ModelVersion, find
from torchmill.components.spare import Spare

logger = logging.getLogger("torchmill")

Status = Literal["FINISHED", "FAILED", "KILLED"]

BATCH_SECONDS = 1.0  # metrics are kept this long, to send many at once
OPEN_SECONDS = 180.0  # the very first run creates MLflow's database; a slow machine may take a minute for it
STORE_SECONDS = 300.0  # for all artifacts to be stored
PROMOTION_SECONDS = 60.0  # for the champion's file to arrive, and for the alias to be set
AWAY_SECONDS = 10.0  # so long a run waits at its end for an MLflow that does not answer
HEARTBEAT_SECONDS = 60.0
LINGER_SECONDS = 60.0  # so long the recorder tries on when the run's process has gone
ERROR_TAG = "error"
CHAMPIONS_TAG = "torchmill.champions"
RESTARTS = 3  # of a recorder that dies, each time that something is waited for
# Neither MLflow nor onnxruntime, which it imports, is to report to its vendor from here, nor to draw bars.
SILENCE = {"MLFLOW_DISABLE_TELEMETRY": "true", "ORT_DISABLE_TELEMETRY": "1", "DO_NOT_TRACK": "1"}
SILENCE["MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR"] = "false"
NEEDED = ("mlflow", "mlflow.onnx", "mlflow.pyfunc")
"""What the recorder imports."""

# ---------------------------------------------------------------------------------------------- the run's side


class Recorder:
    """The second process. Start it early: it imports MLflow meanwhile."""

    def __init__(self, spare: Spare | None = None) -> None:
        self.process = spare or start_python(
            *("-m", "torchmill.components.tracking"),
            environment={**os.environ, **SILENCE, "PYTHONWARNINGS": "ignore"},
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            # Ctrl-C in a terminal reaches a whole process group: it must not end the one who closes the run.
            start_new_session=True,
        )

    def follow(self, journal: Path, runs: Runs) -> None:
        """Begin to record a journal; from now on the end of this process is the end of its run."""
        assert self.process.stdin
        order = {"journal": str(journal), "runs": str(runs.folder)}
        with contextlib.suppress(BrokenPipeError):  # it has died already: whoever waits for it finds out
            self.process.stdin.write(json.dumps(order).encode() + b"\n")
            self.process.stdin.flush()

    def dismiss(self) -> None:
        """Let it finish what it has and go."""
        assert self.process.stdin
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.close()


_waiting: Recorder | None = None
_recorders: dict[Path, Recorder] = {}  # of the runs that this process opened: its end of their pipes
_journals: "dict[Path, Journal]" = {}
_in_vain: set[Path] = set()  # waited long enough for their MLflow already


def warm_up() -> None:
    """Start the recorder of the run that this process is about to open: it imports MLflow meanwhile."""
    global _waiting
    _waiting = _waiting or Recorder()


def map_tables() -> None:
    """Have SQLAlchemy map MLflow's tables, which it would do at the first query, for a quarter of a second."""
    importlib.import_module("mlflow.store.tracking.sqlalchemy_store")
    importlib.import_module("sqlalchemy.orm").configure_mappers()


def take(spare: Spare) -> None:
    """Have a process that was forked for it be the recorder of the run that this process is about to open."""
    global _waiting
    _waiting = Recorder(spare)


def cool_down() -> None:
    """Let a recorder go for which there is nothing to record."""
    global _waiting
    if _waiting:
        _waiting.dismiss()
    _waiting = None


def destination(runs: Runs) -> str:
    """The MLflow that records runs of this folder: the environment's, or the folder's own SQLite file."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"{runs.folder.name}/{runs.database.name}"


def open_run(
    runs: Runs,
    folder: Path,
    *,
    experiment: str,
    name: str,
    params: Mapping[str, str],
    tags: Mapping[str, str],
    ui: str,
    fresh: bool = False,
) -> RunRef:
    """Begin a run in MLflow, or go on with the one that the folder's journal has begun; wait until it has an id.

    Args:
        folder: the run's own, for its journal.
        ui: address of the MLflow UI, for links.

    Raises:
        UserError: MLflow's database or server can't be used.
    """
    if not os.environ.get("MLFLOW_TRACKING_URI"):
        for former in relocate(runs):
            logger.info("%s was at %s: MLflow's addresses of artifacts follow", runs.folder, former)
    journal = _journals[folder] = Journal(folder)
    if journal.records():
        journal.append({"kind": "tags", "tags": dict(tags)})
    else:
        journal.append(
            {
                "kind": "open",
                "id": uuid.uuid4().hex,
                "server": os.environ.get("MLFLOW_TRACKING_URI", ""),
                "experiment": experiment,
                "name": name,
                "params": dict(params),
                "tags": dict(tags),
            }
        )
    _start_recorder(folder, runs)
    opened = _await(folder, lambda receipt: receipt["receipt"] == "opened", OPEN_SECONDS)
    assert opened
    base = opened["server"] or ui
    url = f"{base.rstrip('/')}/#/experiments/{opened['experiment_id']}/runs/{opened['run_id']}"
    return RunRef(run_id=opened["run_id"], name=name, folder=folder, url=url, fresh=fresh)


def _start_recorder(folder: Path, runs: Runs) -> None:
    global _waiting
    recorder, _waiting = _waiting or Recorder(), None
    _recorders[folder] = recorder
    recorder.follow(folder / "journal.jsonl", runs)


def log_metrics(run: RunRef, values: Mapping[str, float], step: int = 0) -> None:
    """Record metrics at a step, once: what is there already stays.

    Infinite and undefined ones are left out: MLflow's databases don't take them.
    """
    finite = {key: value for key, value in values.items() if math.isfinite(value)}
    _append(run, {"kind": "metrics", "step": step, "time": _now_ms(), "values": finite})


def log_params(run: RunRef, params: Mapping[str, object]) -> None:
    """Record params besides the configuration."""
    _append(run, {"kind": "params", "params": {k: str(v) for k, v in params.items()}})


def begin_step(run: RunRef, name: str) -> None:
    """Record that a step begins; what is recorded until it ends belongs to it."""
    _append(run, {"kind": "begin", "name": name})


def log_step(run: RunRef, name: str, step: StepRef) -> None:
    """Record how a step went."""
    _append(run, {"kind": "step", "name": name, "step": step.model_dump()})
    if step.state != "cached":
        log_metrics(run, {f"seconds.{name}": step.seconds})
    _journals[run.folder].sync()


def steps(run: RunRef) -> dict[str, StepRef]:
    """Give the steps that were recorded so far, by name."""
    records = [record for record in _journal(run).records() if record["kind"] == "step"]
    return {record["name"]: StepRef(**record["step"]) for record in records}


def metrics(run: RunRef) -> dict[str, list[tuple[int, float]]]:
    """Give the metrics that were recorded so far: by name, steps and values in order."""
    found: dict[str, dict[int, float]] = {}
    for record in _journal(run).records():
        if record["kind"] == "metrics":
            for name, value in record["values"].items():
                found.setdefault(name, {}).setdefault(record["step"], value)
    return {name: sorted(values.items()) for name, values in found.items()}


def replay(run: RunRef, source: Path, name: str) -> None:
    """Record what a step of another run recorded: this run has its result.

    Args:
        source: the other run's folder.
    """
    inside = False
    for record in Journal(source).records():
        if record["kind"] in ("begin", "step") and record["name"] == name:
            inside = record["kind"] == "begin"
        elif inside and record["kind"] == "files":
            log_files(run, [source / path for path in record["paths"]], record["folder"])
        elif inside and record["kind"] in ("metrics", "params", "tags", "dataset"):
            _append(run, record)


def log_tags(run: RunRef, tags: Mapping[str, str]) -> None:
    """Record tags."""
    _append(run, {"kind": "tags", "tags": dict(tags)})


def log_error(run: RunRef, error: Exception) -> None:
    """Record why the run fails; taken back if it goes on and finishes."""
    log_tags(run, {ERROR_TAG: f"{type(error).__name__}: {error}"[:4000]})


def log_files(run: RunRef, paths: Sequence[Path], folder: str = "") -> None:
    """Store files among the run's artifacts. They are read a little later: don't change them."""
    # Relative, so that what is not sent yet is found when the folder has been moved.
    relative = [os.path.relpath(path, run.folder) for path in paths]
    _append(run, {"kind": "files", "paths": relative, "folder": folder})


def log_dataset(run: RunRef, data: DataRef) -> None:
    """Record which data the run used."""
    profile = {
        "classes": len(data.classes),
        "kind": data.kind,
        "task": data.task,
        "shape": data.shape,
        "train_size": data.train_size,
        "test_size": data.test_size,
    }
    # MLflow keeps 36 characters of a digest: the beginning of the SHA-256. The whole of it is a tag.
    record = {"name": data.name, "digest": data.sha256[:32], "source": data.source, "profile": profile}
    _append(run, {"kind": "dataset", **record})
    log_tags(run, {"data.sha256": data.sha256})


def register(run: RunRef, exported: ExportRef, registered_name: str, tags: Mapping[str, str]) -> str | None:
    """Make an exported model a version in the model registry.

    Gives the version, or None where MLflow doesn't answer: it gets the model when it does.

    Raises:
        UserError: MLflow doesn't take it.
    """
    paths = {"file": exported.onnx.path, "example": exported.example.path}
    ask = f"register {registered_name} {exported.onnx.sha256}"
    _append(
        run,
        {
            "kind": "register",
            "ask": ask,
            "name": registered_name,
            **{name: os.path.relpath(path, run.folder) for name, path in paths.items()},
            "tags": dict(tags),
        },
    )
    answer = _await(run.folder, lambda receipt: receipt.get("ask") == ask, STORE_SECONDS)
    return None if answer is None else str(answer["version"])


@dataclass(frozen=True)
class Standing:
    """How a version stands beside the champion of its model."""

    champion: ModelVersion | None
    file: Path | None
    """The champion's ONNX file, on this machine; None where there is no champion, or it is the version itself."""
    was_champion: bool
    """The version was champion before, and is not any more."""


def standing(run: RunRef, name: str, version: str) -> Standing | None:
    """Ask who is champion of a registered model, and have its file; None where MLflow doesn't answer.

    Raises:
        UserError: MLflow says no, or the file doesn't come.
    """
    ask = uuid.uuid4().hex
    until = time.time() + PROMOTION_SECONDS
    _append(run, {"kind": "standing", "ask": ask, "name": name, "version": version, "until": until})
    answer = _promotion_answer(run, ask)
    if answer is None:
        return None
    champion = answer["champion"] and ModelVersion(**answer["champion"])
    return Standing(champion, answer["file"] and Path(answer["file"]), answer["was_champion"])


def promote(run: RunRef, version: str, name: str, *, champion: str | None, crown: bool, tags: Mapping[str, str]) -> str:
    """Write a verdict onto a version and onto the run, and where it says so make the version champion.

    Args:
        champion: the version that the verdict is about. Where another one is champion by now, nothing is moved.

    Returns:
        "done"; "changed" where another is champion by now; "pending" where MLflow doesn't answer: it is told when it
        does, and does the same then, if the champion is still that one.

    Raises:
        UserError: MLflow says no.
    """
    ask = uuid.uuid4().hex
    order = {"name": name, "version": version, "champion": champion, "crown": crown, "tags": dict(tags)}
    _append(run, {"kind": "promote", "ask": ask, **order})
    answer = _promotion_answer(run, ask)
    return "pending" if answer is None else str(answer["state"])


def _promotion_answer(run: RunRef, ask: str) -> dict[str, Any] | None:
    answer = _await(run.folder, lambda receipt: receipt.get("ask") == ask, 2 * PROMOTION_SECONDS)
    if answer and answer["receipt"] == "declined":
        raise UserError(answer["message"])
    return answer


def settle(run: RunRef) -> bool:
    """Wait until MLflow has all that was recorded so far; False where it doesn't answer.

    Raises:
        UserError: it didn't take something, or the journal could not be written.
    """
    ask = uuid.uuid4().hex
    _append(run, {"kind": "settle", "ask": ask})
    _journal(run).sync()
    return _await(run.folder, lambda receipt: receipt.get("ask") == ask, STORE_SECONDS) is not None


def end_run(run: RunRef, status: Status, seconds: float = 15.0) -> bool:
    """End the run and wait a moment for it; gives whether MLflow has it by then.

    The recorder carries on by itself where this returns early.
    """
    ask = uuid.uuid4().hex
    _append(run, {"kind": "end", "status": status, "ask": ask})
    try:
        return _await(run.folder, lambda receipt: receipt.get("ask") == ask, seconds) is not None
    except UserError:
        return False
    finally:
        _journals.pop(run.folder, None)
        recorder = _recorders.pop(run.folder, None)
        if recorder:
            recorder.dismiss()


class Journal:
    """What a run has to tell, a line of JSON each, in the order in which it happened."""

    def __init__(self, folder: Path):
        self.path = folder / "journal.jsonl"
        self._unwritten = b""
        with contextlib.suppress(FileNotFoundError):
            text = self.path.read_bytes()
            if not text.endswith(b"\n"):  # a write that was cut off: what follows must not be glued to it
                os.truncate(self.path, text.rfind(b"\n") + 1)

    def append(self, record: Mapping[str, Any]) -> None:
        """Write a record; on a full disk it is kept in memory, and written with the next one that finds room."""
        self._unwritten += json.dumps(record, allow_nan=False, default=str).encode() + b"\n"
        try:
            self._write()
        except OSError as error:
            logger.warning("Cannot write %s: %s. It is tried again.", self.path, error.strerror)

    def _write(self) -> None:
        descriptor = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            while self._unwritten:
                written = os.write(descriptor, self._unwritten)  # less, where the disk fills meanwhile
                self._unwritten = self._unwritten[written:]
        finally:
            os.close(descriptor)

    def sync(self) -> None:
        """See to it that all is on the disk.

        Raises:
            UserError: it doesn't take it.
        """
        try:
            self._write()
            with self.path.open("rb") as file:
                os.fsync(file.fileno())
        except OSError as error:
            raise UserError(f"Cannot write {self.path}: {error.strerror}.", "Is the disk full or read-only?") from error

    def records(self) -> list[dict[str, Any]]:
        """Give all that is written."""
        return _lines(self.path)


def _append(run: RunRef, record: Mapping[str, Any]) -> None:
    _journal(run).append(record)


def _journal(run: RunRef) -> Journal:
    return _journals.get(run.folder) or Journal(run.folder)


def _now_ms() -> int:
    return int(time.time() * 1000)


def _await(folder: Path, wanted: Callable[[dict[str, Any]], bool], seconds: float) -> dict[str, Any] | None:
    """Wait for a receipt of the recorder's; None where MLflow doesn't answer."""
    begun = time.monotonic()
    moved, position = begun, ""
    restarts = 0
    while True:
        recorder = _recorders[folder]
        gone = recorder.process.poll() is not None
        receipts = _lines(folder / "receipts.jsonl")
        for receipt in receipts:
            if receipt["receipt"] == "refused" and receipt["process"] == recorder.process.pid:
                kind = Unreachable if receipt["unreachable"] else UserError
                raise kind(receipt["message"], receipt["remedy"])
            if wanted(receipt):
                return receipt
        now = time.monotonic()
        if gone:
            if restarts == RESTARTS:
                raise UserError("The process that records the run in MLflow died.", f"See {folder / 'recorder.log'}.")
            restarts += 1
            _start_recorder(folder, Runs(folder.parent.parent))
        last = [receipt["receipt"] for receipt in receipts if receipt["receipt"] in ("away", "back")][-1:]
        if last == ["away"] and any(receipt["receipt"] == "opened" for receipt in receipts):
            if now - begun > (1.0 if folder in _in_vain else min(AWAY_SECONDS, seconds)):
                _in_vain.add(folder)
                return None
        elif now - moved > seconds:
            raise Unreachable(f"MLflow did not answer within {seconds:.0f} s.", f"See {folder / 'recorder.log'}.")
        if (latest := _sent_text(folder)) != position:
            moved, position = now, latest
        time.sleep(0.02)


def _sent_text(folder: Path) -> str:
    """How far the recorder has come; empty before it has sent anything."""
    try:
        return (folder / "sent.json").read_text()
    except FileNotFoundError:
        return ""


def _lines(path: Path) -> list[dict[str, Any]]:
    try:
        text = path.read_bytes()
    except FileNotFoundError:
        return []
    return [json.loads(line) for line in text[: text.rfind(b"\n") + 1].splitlines()]


# ---------------------------------------------------------------------------------------------- circumstances


def circumstances() -> dict[str, str]:
    """What, besides the configuration, decides or explains a result: versions, machine, git commit."""
    libraries = ("torch", "torchvision", "numpy", "onnx", "onnxruntime", "onnxscript", "mlflow", "prefect")
    tags = {f"version.{name}": metadata.version(name) for name in libraries}
    tags |= {
        "version.torchmill": metadata.version("torchmill"),
        "version.python": platform.python_version(),
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores",
        "mlflow.source.name": " ".join([Path(sys.argv[0]).name, *sys.argv[1:]])[:500],
        "mlflow.source.type": "LOCAL",
    }
    tags["torchmill.source"] = our_source()
    commit = git("rev-parse", "HEAD")
    if commit:
        tags["mlflow.source.git.commit"] = commit.strip()
        tags["git.dirty"] = str(bool(git("status", "--porcelain"))).lower()
    return tags


# ---------------------------------------------------------------------------------------------- the recorder


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


@dataclass(frozen=True)
class RunningRun:
    """A run that MLflow calls running."""

    run_id: str
    name: str
    folder: Path | None
    """Its own, on the host that runs it; None for a run that is not ours."""
    host: str
    heartbeat: str
    """When its recorder was last heard."""


def said_to_run(runs: Runs) -> list[RunningRun]:
    """The runs that MLflow calls running.

    Raises:
        UserError: MLflow doesn't answer.
    """
    found = []
    with _client(runs) as client:
        for experiment in client.search_experiments():
            token: str | None = ""
            while token is not None:
                page = client.search_runs(
                    [experiment.experiment_id], "attributes.status = 'RUNNING'", page_token=token or None
                )
                for run in page:
                    tags = run.data.tags
                    folder = Path(tags["torchmill.folder"]) if "torchmill.folder" in tags else None
                    host, heartbeat = tags.get("torchmill.host", ""), tags.get("torchmill.heartbeat", "")
                    found.append(RunningRun(run.info.run_id, run.info.run_name, folder, host, heartbeat))
                token = page.token or None
    return found


def close_run(runs: Runs, run_id: str) -> None:
    """End a run as KILLED whose process is gone."""
    with _client(runs) as client:
        client.set_terminated(run_id, "KILLED")


@contextlib.contextmanager
def _client(runs: Runs) -> Generator[Any]:
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
        raise kind(f"MLflow {where} cannot be used: {_shortly(error)}") from error


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


def recorded(runs: Runs, run: str) -> Recorded:
    """Read a run by its id, the beginning of it, or its name; ``last`` is the latest that has trained weights.

    Raises:
        UserError: there is none, or several; or MLflow doesn't answer.
    """
    with _client(runs) as client:
        experiments = [experiment.experiment_id for experiment in client.search_experiments()]
        known = client.search_runs(experiments, max_results=50_000) if experiments else []
        fitting = [one for one in known if one.info.run_id == run] or [
            one for one in known if one.info.run_name == run or (len(run) > 5 and one.info.run_id.startswith(run))
        ]
        if run == "last" and not fitting:
            finished = [one for one in known if "weights.sha256" in one.data.tags]
            fitting = sorted(finished, key=lambda one: -one.info.start_time)[:1]
            if not fitting:
                raise UserError("There is no run yet.", "`torchmill train` makes one.")
        if len(fitting) != 1:
            if fitting:
                ids = ", ".join(one.info.run_id for one in fitting[:5])
                raise UserError(f"There are {len(fitting)} runs called '{run}'.", f"Give the id: {ids}.")
            raise UserError(f"There is no run '{run}'.", nearest(run, [one.info.run_name for one in known]))
        (found,) = fitting
        metrics = {
            key: sorted((point.step, point.value) for point in client.get_metric_history(found.info.run_id, key))
            for key in sorted(found.data.metrics)
        }
    return Recorded(
        found.info.run_id, found.info.run_name, found.info.status, found.data.tags, found.data.params, metrics
    )


def tag(runs: Runs, run_id: str, tags: Mapping[str, str]) -> None:
    """Put tags on a run that is over.

    Raises:
        UserError: MLflow doesn't answer.
    """
    with _client(runs) as client:
        for name, value in tags.items():
            client.set_tag(run_id, name, value)


def fetch_file(runs: Runs, run: Recorded, name: str, folder: Path) -> Path:
    """Copy an artifact of a run, as ``weights/best.safetensors``, into a folder; gives its place there.

    Raises:
        UserError: it isn't there.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with _client(runs) as client:
        parent = name.rpartition("/")[0]
        if name not in {item.path for item in client.list_artifacts(run.run_id, parent or None)}:
            raise UserError(f"Run {run.name} has no {name} among its artifacts.", "Did it come to its end?")
        return Path(client.download_artifacts(run.run_id, name, str(folder)))


def fetch_recipe(runs: Runs, run: Recorded, folder: Path) -> None:
    """Copy what a run was made from out of its artifacts: ``config.yaml`` and ``code/``.

    Raises:
        UserError: it isn't there.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with _client(runs) as client:
        there = {item.path for item in client.list_artifacts(run.run_id)}
        for name in ("config.yaml", "code"):
            if name in there:
                client.download_artifacts(run.run_id, name, str(folder))
    if "config.yaml" not in there:
        raise UserError(f"Run {run.name} has no config.yaml among its artifacts: nobody knows what it was made from.")


# ---------------------------------------------------------------------------------------------- the model registry


def versions(runs: Runs) -> list[ModelVersion]:
    """All versions of all registered models, by name and number.

    From the folder's own SQLite file without MLflow, which takes seconds to import.

    Raises:
        UserError: MLflow doesn't answer.
    """
    if not os.environ.get("MLFLOW_TRACKING_URI"):
        found = _local_versions(runs)
    else:
        with _client(runs) as client:
            found = [
                _version(client, model.name, str(one.version), model.aliases)
                for model in _all_pages(client.search_registered_models)
                for one in client.search_model_versions(f"name = '{model.name}'")
            ]
    return sorted(found, key=lambda one: (one.name, int(one.version)))


def _local_versions(runs: Runs) -> list[ModelVersion]:
    if not runs.database.exists():
        return []
    check_database(runs)
    relocate(runs)  # otherwise files would be looked for where the folder was
    tags: dict[tuple[str, int], dict[str, str]] = {}
    aliases: dict[tuple[str, int], list[str]] = {}
    with contextlib.closing(sqlite3.connect(runs.database, timeout=60)) as connection:
        for key, value, name, number in connection.execute("SELECT key, value, name, version FROM model_version_tags"):
            tags.setdefault((name, number), {})[key] = value
        for alias, name, number in connection.execute("SELECT alias, name, version FROM registered_model_aliases"):
            aliases.setdefault((name, number), []).append(alias)
        rows = connection.execute(
            "SELECT name, version, run_id, storage_location FROM model_versions WHERE current_stage IS NULL "
            "OR current_stage != 'Deleted_Internal'"
        ).fetchall()
    return [
        ModelVersion(
            name,
            str(number),
            run_id or "",
            tags.get((name, number), {}),
            tuple(sorted(aliases.get((name, number), []))),
            place or "",
        )
        for name, number, run_id, place in rows
    ]


def _all_pages(search: Callable[..., Any]) -> Generator[Any]:
    token = None
    while True:
        page = search(page_token=token)
        yield from page
        token = page.token
        if not token:
            return


def _version(client: Any, name: str, version: str, aliases: Mapping[str, Any] = {}) -> ModelVersion:
    held = client.get_model_version(name, version)
    place = str(client.get_model_version_download_uri(name, version))
    own = tuple(sorted(alias for alias, number in aliases.items() if str(number) == version))
    return ModelVersion(name, version, held.run_id or "", dict(held.tags), own, place)


def onnx_file(runs: Runs, version: ModelVersion) -> Path:
    """Have the ONNX file of a version on this machine.

    Raises:
        UserError: MLflow doesn't give it, or there is none.
    """
    if local := _local_folder(version):
        return _onnx_in(local, version)
    with _client(runs) as client:
        return _onnx_file(client, version, runs.work / "models" / version.name / version.version)


def _local_folder(version: ModelVersion) -> Path | None:
    folder = Path(unquote(version.place.removeprefix("file://")))
    return folder if version.place.startswith("file://") and folder.is_dir() else None


def _onnx_file(client: Any, version: ModelVersion, folder: Path) -> Path:
    """Copy a version's files into a folder, unless they are on this machine anyway."""
    if local := _local_folder(version):
        return _onnx_in(local, version)
    if not folder.is_dir():
        from mlflow.artifacts import download_artifacts

        partial = folder.with_name(f".{folder.name}.{os.getpid()}.partial")
        partial.mkdir(parents=True, exist_ok=True)
        download_artifacts(artifact_uri=version.place, dst_path=str(partial), tracking_uri=client.tracking_uri)
        with contextlib.suppress(OSError):  # somebody else was quicker
            partial.rename(folder)
    return _onnx_in(folder, version)


def _onnx_in(folder: Path, version: ModelVersion) -> Path:
    files = sorted(folder.rglob("*.onnx"))
    if not files:
        raise UserError(f"{version} has no ONNX file among its files.", "Was it registered by something else?")
    return files[0]


def _in_time(work: Callable[[], Path], until: float) -> Path:
    """Do work that may hang in a thread that is left to itself then.

    Raises:
        UserError: it isn't done by then.
    """
    done: list[Path | Exception] = []

    def do() -> None:
        try:
            done.append(work())
        except Exception as error:
            done.append(error)

    thread = threading.Thread(target=do, daemon=True)
    thread.start()
    thread.join(max(0.0, until - time.time()))
    if not done:
        raise UserError("MLflow did not answer in time.")
    if isinstance(done[0], Exception):
        raise done[0]
    return done[0]


def _challenge(client: Any, name: str, version: str) -> None:
    """Let a version that was just registered be the challenger."""
    if str(client.get_registered_model(name).aliases.get(CHAMPION)) != version:
        client.set_registered_model_alias(name, CHALLENGER, version)


def _champions(client: Any, name: str) -> tuple[Champions, str | None]:
    """Give who was champion of a model, and who is."""
    model = client.get_registered_model(name)
    held = model.aliases.get(CHAMPION)
    champion = None if held is None else str(held)
    return Champions.read(model.tags.get(CHAMPIONS_TAG)).settled(champion), champion


def _crown(client: Any, runs: Runs, name: str, version: str, expected: str | None, why: str) -> bool:
    """Make a version champion if the champion is still the one that is expected; gives whether it is champion now."""
    with locked(runs.work / "promotion.lock"):
        champions, champion = _champions(client, name)
        if champion not in (expected, version):
            return False
        if champion != version:
            champions = champions.intending(version, why)
            client.set_registered_model_tag(name, CHAMPIONS_TAG, champions.text())
            client.set_registered_model_alias(name, CHAMPION, version)
        client.set_registered_model_tag(name, CHAMPIONS_TAG, champions.settled(version).text())
        if str(client.get_registered_model(name).aliases.get(CHALLENGER)) == version:
            client.delete_registered_model_alias(name, CHALLENGER)
    return True


def crown(runs: Runs, version: ModelVersion, expected: str | None, why: str, tags: Mapping[str, str]) -> bool:
    """Make a version champion if ``expected`` is still the champion, and write ``tags`` onto it and its run.

    Gives False, and changes nothing, where another is champion by now.

    Raises:
        UserError: MLflow doesn't answer, or says no.
    """
    with _client(runs) as client:
        moved = _crown(client, runs, version.name, version.version, expected, why)
        if moved:
            _tag_version(client, version, tags)
        return moved


def tag_version(runs: Runs, version: ModelVersion, tags: Mapping[str, str]) -> None:
    """Write tags onto a version and its run.

    Raises:
        UserError: MLflow doesn't answer, or says no.
    """
    with _client(runs) as client:
        _tag_version(client, version, tags)


def _tag_version(client: Any, version: ModelVersion, tags: Mapping[str, str]) -> None:
    for key, value in tags.items():
        client.set_model_version_tag(version.name, version.version, key, value)
        if version.run_id:
            client.set_tag(version.run_id, key, value)


def attach(runs: Runs, run_id: str, file: Path, folder: str, seconds: float) -> bool:
    """Store a file among the artifacts of a run that is over; False where that does not succeed in time."""

    def store() -> Path:
        with _client(runs) as client:
            client.log_artifact(run_id, str(file), folder)
        return file

    try:
        _in_time(store, time.time() + seconds)
    except Exception as error:  # whatever it is: nothing hangs on it
        logger.debug("%s was not stored: %s", file, error)
        return False
    return True


def roll_back(runs: Runs, name: str) -> tuple[str, str]:
    """Make the version champion that was it before; gives that, and the one that was champion until now.

    Raises:
        UserError: there is no such model, or no champion before this one; MLflow doesn't answer.
    """
    known = [one for one in versions(runs) if one.name == name]
    if not known:
        find(versions(runs), name)
    with _client(runs) as client:
        for _ in range(10):
            champions, champion = _champions(client, name)
            former = champions.before(champion, {one.version for one in known})
            if champion is None or former is None:
                told = "no champion" if champion is None else f"no champion before version {champion}"
                raise UserError(f"{name} has {told}: there is nothing to go back to.", f"torchmill promote {name}")
            if _crown(client, runs, name, former, champion, f"rolled back from version {champion}"):
                client.set_model_version_tag(name, champion, "promotion.outcome", "rolled back")
                return former, champion
    raise UserError(f"Others change the champion of {name} all the time.", "Try again.")


class _Session:
    """One journal, told to MLflow: each record once, however often either side dies in between.

    How far it has come is in ``sent.json``. What was sent just before a death may be sent again, which MLflow's
    databases recognise: a metric of the same step, time and value is the same row, params and tags are put, a run and
    a model version carry an id of ours by which they are found.
    """

    def __init__(self, journal: Path, runs: Runs):
        self.journal = journal
        self.folder = journal.parent
        self.runs = runs
        self.server = ""
        self.sent: dict[str, Any] = {"to": 0, "run_id": "", "status": ""}
        with contextlib.suppress(FileNotFoundError):
            self.sent = json.loads((self.folder / "sent.json").read_bytes())
        self.read_to = 0
        self.waiting: list[tuple[int, dict[str, Any]]] = []  # records with where each ends
        self.known: set[tuple[str, int]] = set()  # metrics and steps of the journal so far
        self.flushed = self.beaten = time.monotonic()
        self.retry_at, self.failures = 0.0, 0
        self.client: Any = None
        self.is_reopened = bool(self.sent["status"])
        self.ended = ""

    @property
    def run_id(self) -> str:
        return self.sent["run_id"]

    def log(self, text: str) -> None:
        with (self.folder / "recorder.log").open("a", encoding="utf-8") as file:
            file.write(f"{_clock()} {text}\n")

    def receipt(self, name: str, **more: object) -> None:
        line = json.dumps({"receipt": name, "process": os.getpid(), **more}).encode() + b"\n"
        with (self.folder / "receipts.jsonl").open("ab", buffering=0) as file:
            file.write(line)

    def read(self) -> None:
        """Take up what is new in the journal."""
        with self.journal.open("rb") as file:
            file.seek(self.read_to)
            new = file.read()
        for line in new[: new.rfind(b"\n") + 1].splitlines(keepends=True):
            self.read_to += len(line)
            record = json.loads(line)
            if record["kind"] == "open":
                self.server = record["server"]
            if record["kind"] == "metrics":  # the first value of a step counts: a resumed run repeats some
                fresh = {key for key in record["values"] if (key, record["step"]) not in self.known}
                self.known |= {(key, record["step"]) for key in fresh}
                record["values"] = {key: value for key, value in record["values"].items() if key in fresh}
            self.ended = record["status"] if record["kind"] == "end" else ""
            if self.read_to > self.sent["to"]:
                self.waiting.append((self.read_to, record))

    def is_delivered(self) -> bool:
        return not self.waiting

    def deliver(self) -> None:
        """Tell MLflow what waits, unless that is to be gathered a little longer, or MLflow is away."""
        now = time.monotonic()
        gather = all(record["kind"] == "metrics" for _, record in self.waiting) and now - self.flushed < BATCH_SECONDS
        if now < self.retry_at or (gather and not self.is_reopened):
            return
        try:
            self.connect()
            while self.waiting:
                self.send_next()
            self.flushed = now
            if now - self.beaten > HEARTBEAT_SECONDS:
                self.beaten = now
                self.client.set_tag(self.run_id, "torchmill.heartbeat", _clock())
        except Exception as error:  # the network, a database, a disk: whatever it is may be over in a moment
            if not self.run_id:
                raise
            self.failures += 1
            self.retry_at = time.monotonic() + min(2.0 ** (self.failures - 1), 15.0)
            self.log(f"{type(error).__name__}: {error}")
            if self.failures == 1:
                self.receipt("away", message=_in_words(error, self)[0])
            return
        if self.failures:
            self.failures = 0
            self.receipt("back")

    def connect(self) -> None:
        if self.client is None:
            be_silent()
            import mlflow

            if not self.server:
                create_database(self.runs)
            mlflow.set_tracking_uri(self.server or database_uri(self.runs))
            client = mlflow.MlflowClient()
            if self.is_reopened:
                client.update_run(self.run_id, status="RUNNING")
                self.is_reopened = False
            self.client = client

    def send_next(self) -> None:
        """Send the first record that waits; of metrics all that follow one another, in one call."""
        count = 1
        kind = self.waiting[0][1]["kind"]
        if kind == "metrics":
            while count < min(len(self.waiting), 100) and self.waiting[count][1]["kind"] == "metrics":
                count += 1
        records = [record for _, record in self.waiting[:count]]
        try:
            if kind == "metrics":
                self.send_metrics(records)
            else:
                (record,) = records
                getattr(self, f"do_{kind}")(**{name: value for name, value in record.items() if name != "kind"})
        except Exception as error:
            if not _is_refusal(error) or not self.run_id:
                raise
            self.log(f"refused: {records} {error}")
            remedy = "Was the run deleted in MLflow? Begin another with --fresh."
            self.receipt("refused", message=_in_words(error, self)[0], remedy=remedy, unreachable=False)
        self.note(to=self.waiting[count - 1][0])
        del self.waiting[:count]

    def note(self, **changes: Any) -> None:
        self.sent |= changes
        write_text(self.folder / "sent.json", json.dumps(self.sent))

    def send_metrics(self, records: list[dict[str, Any]]) -> None:
        from mlflow.entities import Metric

        metrics = [
            Metric(key, value, record["time"], record["step"])
            for record in records
            for key, value in record["values"].items()
        ]
        for start in range(0, len(metrics), 1000):  # MLflow's limit
            self.client.log_batch(self.run_id, metrics=metrics[start : start + 1000])

    def do_open(
        self, id: str, server: str, experiment: str, name: str, params: dict[str, str], tags: dict[str, str]
    ) -> None:
        import mlflow
        from mlflow.entities import Param

        experiment_id = self._experiment(experiment, local=not server)
        mlflow.set_experiment(experiment_id=experiment_id)  # where a logged model goes, whatever run it names
        # Its id may have been on its way when somebody died.
        known = self.client.search_runs([experiment_id], f"tags.`torchmill.id` = '{id}'", max_results=1)
        ours = {
            "torchmill.id": id,
            "torchmill.folder": str(self.folder),
            "torchmill.host": platform.node(),
            "torchmill.heartbeat": _clock(),
        }
        run = known[0] if known else self.client.create_run(experiment_id, run_name=name, tags=tags | ours)
        pairs = [Param(key, value[:6000]) for key, value in params.items()]
        self.client.log_batch(run.info.run_id, params=pairs)
        self.sent |= {"run_id": run.info.run_id, "experiment_id": experiment_id}
        http = server if server.startswith("http") else ""
        self.receipt("opened", run_id=run.info.run_id, experiment_id=experiment_id, server=http)

    def _experiment(self, name: str, local: bool) -> str:
        from mlflow.exceptions import MlflowException

        known = self.client.get_experiment_by_name(name)
        if known is None:
            try:
                # The tag has the UI show what matters of networks instead of what matters of language models.
                return self.client.create_experiment(
                    name,
                    (self.runs.artifacts / name).as_uri() if local else None,
                    tags={"mlflow.experimentKind": "custom_model_development"},
                )
            except MlflowException:  # somebody else was quicker
                known = self.client.get_experiment_by_name(name)
                if known is None:
                    raise
        if known.lifecycle_stage == "deleted":
            self.client.restore_experiment(known.experiment_id)
        return known.experiment_id

    def do_begin(self, name: str) -> None:
        """Where a step begins is for the run's own process."""

    def do_step(self, name: str, step: dict[str, Any]) -> None:
        """Steps are for the run's own process; MLflow has their seconds as metrics."""

    def do_params(self, params: dict[str, str]) -> None:
        from mlflow.entities import Param

        self.client.log_batch(self.run_id, params=[Param(key, value[:6000]) for key, value in params.items()])

    def do_tags(self, tags: dict[str, str]) -> None:
        from mlflow.entities import RunTag

        self.client.log_batch(self.run_id, tags=[RunTag(key, value) for key, value in tags.items()])

    def do_files(self, paths: list[str], folder: str) -> None:
        for path in paths:
            self.client.log_artifact(self.run_id, str(self.folder / path), folder or None)

    def do_dataset(self, name: str, digest: str, source: str, profile: dict[str, Any]) -> None:
        from mlflow.entities import Dataset, DatasetInput, InputTag

        kind = "http" if source.startswith("http") else "local"
        entity = Dataset(
            name, digest, kind, json.dumps({"url" if kind == "http" else "uri": source}), None, json.dumps(profile)
        )
        self.client.log_inputs(self.run_id, [DatasetInput(entity, [InputTag("mlflow.data.context", "training")])])

    def do_register(self, ask: str, name: str, file: str, example: str, tags: dict[str, str]) -> None:
        import mlflow.onnx
        import numpy as np
        import onnx
        from mlflow.models import Model
        from mlflow.models.signature import ModelSignature
        from mlflow.types import Schema, TensorSpec

        for known in self.client.search_model_versions(f"run_id = '{self.run_id}'"):
            if known.name == name and known.tags.get("torchmill.ask") == ask:
                _challenge(self.client, name, str(known.version))
                return self.receipt("registered", ask=ask, version=known.version)
        # One that was under way when somebody died, and never got as far as a version.
        experiment_id = self.sent["experiment_id"]
        for half in self.client.search_logged_models([experiment_id], f"source_run_id = '{self.run_id}'"):
            self.client.delete_logged_model(half.model_id)
        mlflow.set_experiment(experiment_id=experiment_id)
        proto = onnx.load(self.folder / file)
        arrays = np.load(self.folder / example)
        (takes,), gives = proto.graph.input, proto.graph.output

        def spec(value: onnx.ValueInfoProto) -> TensorSpec:
            sizes = [size.dim_value if size.HasField("dim_value") else -1 for size in value.type.tensor_type.shape.dim]
            kind = arrays[value.name].dtype
            return TensorSpec(np.dtype("str") if kind.kind == "U" else kind, tuple(sizes), value.name)

        info = Model.log(
            artifact_path=None,
            name="onnx",
            flavor=mlflow.onnx,
            run_id=self.run_id,
            registered_model_name=name,
            await_registration_for=0,
            tags=tags | {"torchmill.ask": ask},
            onnx_model=proto,
            signature=ModelSignature(Schema([spec(takes)]), Schema([spec(value) for value in gives])),
            input_example={takes.name: arrays[takes.name][:2]},
            # Named, since MLflow would otherwise find them out by running the model, for up to half a minute.
            pip_requirements=[
                f"{library}=={metadata.version(library)}" for library in ("onnxruntime", "onnx", "numpy")
            ],
            onnx_execution_providers=["CPUExecutionProvider"],
            save_as_external_data=False,
        )
        _challenge(self.client, name, str(info.registered_model_version))
        self.receipt("registered", ask=ask, version=info.registered_model_version)

    def do_standing(self, ask: str, name: str, version: str, until: float) -> None:
        if time.time() > until:
            return self.log("nobody waits any more to hear who is champion")
        with self.declining(ask):
            champions, champion = _champions(self.client, name)
            was_champion = version != champion and version in champions
            if champion in (None, version):
                held = None if champion is None else {"name": name, "version": version, "run_id": self.run_id}
                return self.receipt("standing", ask=ask, champion=held, file=None, was_champion=was_champion)
            found = _version(self.client, name, str(champion))
            file = _in_time(lambda: _onnx_file(self.client, found, self.folder / f"champion-{champion}"), until)
            held = {"name": name, "version": found.version, "run_id": found.run_id, "tags": found.tags}
            self.receipt("standing", ask=ask, champion=held, file=str(file), was_champion=was_champion)

    def do_promote(
        self, ask: str, name: str, version: str, champion: str | None, crown: bool, tags: dict[str, str]
    ) -> None:
        with self.declining(ask):
            moved = not crown or _crown(self.client, self.runs, name, version, champion, "promoted")
            if not moved:
                tags = {"promotion.outcome": "pending", "promotion.reason": "another version became champion meanwhile"}
            for key, value in tags.items():
                self.client.set_model_version_tag(name, version, key, value)
            self.do_tags(tags)
            self.receipt("promotion", ask=ask, state="done" if moved else "changed")

    @contextlib.contextmanager
    def declining(self, ask: str) -> Generator[None]:
        """Answer that MLflow says no, instead of failing the run for it: the model is registered all the same."""
        try:
            yield
        except Exception as error:
            if not isinstance(error, UserError) and not _is_refusal(error):
                raise
            self.log(f"declined: {error}")
            message = error.message if isinstance(error, UserError) else _in_words(error, self)[0]
            self.receipt("declined", ask=ask, message=message)

    def do_settle(self, ask: str) -> None:
        self.receipt("settled", ask=ask)

    def do_end(self, status: Status, ask: str = "") -> None:
        if len(self.waiting) == 1:  # otherwise it went on after that
            if status == "FINISHED" and ERROR_TAG in self.client.get_run(self.run_id).data.tags:
                self.client.delete_tag(self.run_id, ERROR_TAG)  # of an earlier time, before it went on
            self.client.set_terminated(self.run_id, status)
            self.sent |= {"status": status}
        self.receipt("ended", ask=ask)

    def close_as_killed(self) -> None:
        """End a run whose process died without a word."""
        self.connect()
        self.client.set_terminated(self.run_id, "KILLED")
        self.note(status="KILLED")


def _clock() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S%z")


def _is_refusal(error: Exception) -> bool:
    """Tell whether MLflow has answered that it doesn't want it: to try again would be of no use."""
    from mlflow.exceptions import MlflowException
    from requests import HTTPError

    # The last ones are mistakes of ours or of MLflow's, which waiting does not mend.
    if isinstance(error, FileNotFoundError | LookupError | TypeError | AttributeError):
        return True
    if isinstance(error, HTTPError) and error.response is not None:
        return 400 <= error.response.status_code < 500
    codes = ("INVALID_PARAMETER_VALUE", "BAD_REQUEST", "PERMISSION_DENIED", "RESOURCE_DOES_NOT_EXIST", "INVALID_STATE")
    return isinstance(error, MlflowException) and error.error_code in codes


def record(orders: BufferedReader) -> None:
    """Be the recorder: read which journal to follow from ``orders``, and follow it to its end or its writer's."""
    gc.disable()  # a fifth of the time that the imports take
    for name in NEEDED:  # here, while the run's process imports torch
        importlib.import_module(name)
    gc.enable()
    order = orders.readline()
    if not order:
        return  # the run ended before it began
    journal, runs = (Path(json.loads(order)[key]) for key in ("journal", "runs"))
    log = journal.with_name("recorder.log").open("a", encoding="utf-8")
    os.dup2(log.fileno(), sys.stderr.fileno())
    with locked(journal.with_name("recorder.lock")):  # the one before, of a process that was killed, may not be done
        session = _Session(journal, Runs(runs))
        try:
            _follow(session, orders)
        except Exception as error:  # whatever MLflow, its database or the disk says is told to the run's process
            message, remedy, unreachable = _in_words(error, session)
            session.receipt("refused", message=message, remedy=remedy, unreachable=unreachable)
            raise
    deliver_rest(Runs(runs))


def _follow(session: _Session, orders: BufferedReader) -> None:
    writer_lives = True
    while writer_lives and not (session.ended and session.is_delivered()):
        ready, _, _ = select.select([orders], [], [], 0.05)
        writer_lives = not ready or bool(orders.read1())
        session.read()
        session.deliver()
    deadline = time.monotonic() + LINGER_SECONDS
    while not session.is_delivered() and time.monotonic() < deadline:
        session.flushed = 0.0  # no gathering any more
        session.deliver()
        time.sleep(0.05)
    if session.is_delivered() and not session.ended:
        session.close_as_killed()


def undelivered(runs: Runs) -> list[Path]:
    """Folders of runs that no process is at work on, and of which MLflow does not know all, or not how they ended."""
    found = []
    for journal in sorted(runs.work.glob("*/journal.jsonl"), key=lambda path: path.stat().st_mtime):
        sent = json.loads(_sent_text(journal.parent) or '{"to": 0, "status": ""}')
        behind = sent["to"] < journal.stat().st_size or not sent["status"]
        if behind and not is_alive(journal.parent):
            found.append(journal.parent)
    return found


def deliver_rest(runs: Runs) -> dict[Path, str]:
    """Send MLflow what runs that are over could not send; gives per folder how the run stands, or why it can't be sent.

    A run whose process died without a word is closed as KILLED.
    """
    told: dict[Path, str] = {}
    for folder in undelivered(runs):
        with locked(folder / "recorder.lock", wait=False) as free:
            if is_alive(folder):
                continue  # it goes on
            if not free:
                told[folder] = "another process is sending it"
                continue
            session = _Session(folder / "journal.jsonl", runs)
            try:
                session.read()
                session.flushed = 0.0
                session.deliver()
                if session.is_delivered() and not session.ended:
                    session.close_as_killed()
                told[folder] = session.sent["status"] if session.is_delivered() else "MLflow does not answer"
            except Exception as error:  # one run's trouble is not the others'
                told[folder] = _in_words(error, session)[0]
    return told


def _shortly(error: Exception) -> str:
    """What an error says, without the layers of those who passed it on."""
    text = " ".join(str(error).split())
    for sign, words in {"Read timed out": "it does not answer", "Connection refused": "connection refused"}.items():
        if sign in text:
            return words
    return text[:400]


def _in_words(error: Exception, session: _Session) -> tuple[str, str, bool]:
    """Give what went wrong, the remedy, and whether it is that MLflow did not answer."""
    if isinstance(error, UserError):
        return error.message, error.remedy, isinstance(error, Unreachable)
    text = _shortly(error)
    server, runs = session.server, session.runs
    if isinstance(error, OSError) and error.filename and not server:
        return f"Cannot write {error.filename}: {error.strerror}.", "Is the disk full or read-only?", False
    if "out-of-date database schema" in text:
        return (
            f"{runs.database} was made by another version of MLflow.",
            f"Upgrade it with: .venv/bin/mlflow db upgrade {database_uri(runs)}",
            False,
        )
    if any(words in text for words in ("malformed", "not a database", "disk I/O error")):
        return f"{runs.database} is damaged: {text}", "Move it away, restore a copy, or give another --runs.", False
    if "readonly database" in text or "database or disk is full" in text:
        return f"Cannot write {runs.database}: {text}", "Is the disk full or read-only?", False
    where = f"at {server}" if server else f"in {runs.database}"
    remedy = "Is MLFLOW_TRACKING_URI right, and is the server up?" if server else ""
    return f"MLflow {where} did not take the run: {text}", remedy, bool(server)


def be_recorder(orders: BufferedReader) -> int:
    """Be the recorder in a process that was forked for it."""
    warnings.simplefilter("ignore")
    be_silent()
    with Path(os.devnull).open("wb") as nothing:
        os.dup2(nothing.fileno(), sys.stdout.fileno())
    record(orders)
    return 0


if __name__ == "__main__":
    be_silent()
    with open(sys.stdin.fileno(), "rb", closefd=False) as given:
        record(given)
