"""Record runs in MLflow: the only file that knows it.

A run's process appends to a journal on disk; a second process, the recorder, reads the journal and tells MLflow.
So nothing waits for MLflow while a network trains, and a run whose process is killed is still closed.
"""

import contextlib
import gc
import json
import logging
import math
import os
import platform
import select
import sqlite3
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from importlib import metadata
from io import BufferedReader
from pathlib import Path
from typing import Any, Literal

from components.errors import Unreachable, UserError
from components.files import locked
from components.places import Runs
from components.refs import DataRef, ExportRef, RunRef, StepRef

Status = Literal["FINISHED", "FAILED", "KILLED"]

BATCH_SECONDS = 1.0  # metrics are kept this long, to send many at once
OPEN_SECONDS = 180.0  # the very first run creates MLflow's database; a slow machine may take a minute for it
# Neither MLflow nor onnxruntime, which it imports, is to report to its vendor from here.
SILENCE = {"MLFLOW_DISABLE_TELEMETRY": "true", "ORT_DISABLE_TELEMETRY": "1", "DO_NOT_TRACK": "1"}

STORE_SECONDS = 300.0  # for all artifacts to be stored

# ---------------------------------------------------------------------------------------------- the run's side


class Recorder:
    """The second process. Start it early: it imports MLflow meanwhile."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "components.tracking"],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            # Ctrl-C in a terminal reaches a whole process group: it must not end the one who closes the run.
            start_new_session=True,
            env={**os.environ, **SILENCE, "PYTHONWARNINGS": "ignore"},
        )

    def follow(self, journal: Path, runs: Runs) -> None:
        """Begin to record a journal; from now on the end of this process is the end of its run."""
        assert self.process.stdin
        order = {"journal": str(journal), "runs": str(runs.folder)}
        self.process.stdin.write(json.dumps(order).encode() + b"\n")
        self.process.stdin.flush()

    def dismiss(self) -> None:
        """Let it finish what it has and go."""
        assert self.process.stdin
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.close()


_waiting: Recorder | None = None
_recorders: dict[Path, Recorder] = {}  # of the runs that this process opened: its end of their pipes


def warm_up() -> None:
    """Start the recorder of the run that this process is about to open: it imports MLflow meanwhile."""
    global _waiting
    _waiting = _waiting or Recorder()


def open_run(
    runs: Runs,
    folder: Path,
    *,
    experiment: str,
    name: str,
    params: Mapping[str, str],
    tags: Mapping[str, str],
    ui: str,
) -> RunRef:
    """Begin a run in MLflow and wait until it has an id.

    Args:
        folder: the run's own, for its journal.
        ui: address of the MLflow UI, for links.

    Raises:
        UserError: MLflow's database or server can't be used.
    """
    global _waiting
    recorder, _waiting = _waiting or Recorder(), None
    _recorders[folder] = recorder
    journal = folder / "journal.jsonl"
    _append(
        journal, {"kind": "open", "experiment": experiment, "name": name, "params": dict(params), "tags": dict(tags)}
    )
    recorder.follow(journal, runs)
    opened = _await(folder, lambda receipt: receipt["receipt"] == "opened", OPEN_SECONDS)
    base = opened["server"] or ui
    url = f"{base.rstrip('/')}/#/experiments/{opened['experiment_id']}/runs/{opened['run_id']}"
    return RunRef(run_id=opened["run_id"], name=name, folder=folder, url=url)


def log_metrics(run: RunRef, values: Mapping[str, float], step: int = 0) -> None:
    """Record metrics at a step. Infinite and undefined ones are left out: MLflow's databases don't take them."""
    finite = {key: value for key, value in values.items() if math.isfinite(value)}
    _append(run.folder / "journal.jsonl", {"kind": "metrics", "step": step, "time": _now_ms(), "values": finite})


def log_params(run: RunRef, params: Mapping[str, object]) -> None:
    """Record params besides the configuration."""
    _append(run.folder / "journal.jsonl", {"kind": "params", "params": {k: str(v) for k, v in params.items()}})


def log_step(run: RunRef, name: str, step: StepRef) -> None:
    """Record how a step went."""
    _append(run.folder / "journal.jsonl", {"kind": "step", "name": name, "step": step.model_dump()})
    log_metrics(run, {f"seconds.{name}": step.seconds})


def steps(run: RunRef) -> dict[str, StepRef]:
    """Give the steps that were recorded so far, by name."""
    records = (record for record in _lines(run.folder / "journal.jsonl") if record["kind"] == "step")
    return {record["name"]: StepRef(**record["step"]) for record in records}


def log_tags(run: RunRef, tags: Mapping[str, str]) -> None:
    """Record tags."""
    _append(run.folder / "journal.jsonl", {"kind": "tags", "tags": dict(tags)})


def log_files(run: RunRef, paths: Sequence[Path], folder: str = "") -> None:
    """Store files among the run's artifacts. They are read a little later: don't change them."""
    _append(run.folder / "journal.jsonl", {"kind": "files", "paths": [str(path) for path in paths], "folder": folder})


def log_dataset(run: RunRef, data: DataRef) -> None:
    """Record which data the run used."""
    profile = {
        "classes": len(data.classes),
        "image_shape": data.image_shape,
        "train_size": data.train_size,
        "test_size": data.test_size,
    }
    _append(
        run.folder / "journal.jsonl",
        # MLflow keeps 36 characters of a digest: the beginning of the SHA-256. The whole of it is a tag.
        {"kind": "dataset", "name": data.name, "digest": data.sha256[:32], "source": data.source, "profile": profile},
    )
    log_tags(run, {"data.sha256": data.sha256})


def register(run: RunRef, exported: ExportRef, registered_name: str, tags: Mapping[str, str]) -> str:
    """Make an exported model a version in the model registry; gives the version.

    Raises:
        UserError: MLflow doesn't take it.
    """
    ask = uuid.uuid4().hex
    _append(
        run.folder / "journal.jsonl",
        {
            "kind": "register",
            "ask": ask,
            "name": registered_name,
            "file": str(exported.onnx.path),
            "example": str(exported.example.path),
            "tags": dict(tags),
        },
    )
    return str(_await(run.folder, lambda receipt: receipt.get("ask") == ask, STORE_SECONDS)["version"])


def settle(run: RunRef) -> None:
    """Wait until MLflow has all that was recorded so far.

    Raises:
        UserError: it didn't take something.
    """
    ask = uuid.uuid4().hex
    _append(run.folder / "journal.jsonl", {"kind": "settle", "ask": ask})
    _await(run.folder, lambda receipt: receipt.get("ask") == ask, STORE_SECONDS)


def end_run(run: RunRef, status: Status, seconds: float = 15.0) -> bool:
    """End the run and wait a moment for it; gives whether MLflow has it by then.

    The recorder carries on by itself where this returns early.
    """
    ask = uuid.uuid4().hex
    _append(run.folder / "journal.jsonl", {"kind": "end", "status": status, "ask": ask})
    try:
        _await(run.folder, lambda receipt: receipt.get("ask") == ask, seconds)
    except UserError:
        return False
    finally:
        recorder = _recorders.pop(run.folder, None)
        if recorder:
            recorder.dismiss()
    return True


def _append(journal: Path, record: Mapping[str, Any]) -> None:
    line = json.dumps(record, allow_nan=False, default=str).encode() + b"\n"
    descriptor = os.open(journal, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        os.write(descriptor, line)  # one write: lines of several processes don't mix
    finally:
        os.close(descriptor)


def _now_ms() -> int:
    return int(time.time() * 1000)


def _await(folder: Path, wanted: Callable[[dict[str, Any]], bool], seconds: float) -> dict[str, Any]:
    """Wait for a receipt of the recorder's."""
    deadline = time.monotonic() + seconds
    receipts = folder / "receipts.jsonl"
    recorder = _recorders.get(folder)
    while True:
        gone = recorder is not None and recorder.process.poll() is not None
        for receipt in _lines(receipts):
            if receipt["receipt"] == "refused":
                kind = Unreachable if receipt["unreachable"] else UserError
                raise kind(receipt["message"], receipt["remedy"])
            if wanted(receipt):
                return receipt
        if gone:
            raise UserError("The process that records the run in MLflow died.", f"See {folder / 'recorder.log'}.")
        if time.monotonic() > deadline:
            raise Unreachable(f"MLflow did not answer within {seconds:.0f} s.", f"See {folder / 'recorder.log'}.")
        time.sleep(0.02)


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
    commit = _git("rev-parse", "HEAD")
    if commit:
        tags["mlflow.source.git.commit"] = commit.strip()
        tags["git.dirty"] = str(bool(_git("status", "--porcelain"))).lower()
    return tags


def write_git_diff(folder: Path) -> Path | None:
    """Write what the working tree has besides its commit into ``git.diff``; None where there is nothing."""
    diff = _git("diff", "HEAD", "--no-ext-diff")
    if not diff:
        return None
    file = folder / "git.diff"
    file.write_text(diff, encoding="utf-8")
    return file


def _git(*arguments: str) -> str | None:
    try:
        done = subprocess.run(["git", *arguments], capture_output=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):  # no git, no repository, no commit: nothing to tell
        return None
    return done.stdout.decode("utf-8", errors="replace")


# ---------------------------------------------------------------------------------------------- the recorder


def database_uri(runs: Runs) -> str:
    """MLflow's name for its SQLite file."""
    return f"sqlite:///{runs.database}"


def ui_command(runs: Runs, port: int) -> list[str]:
    """The MLflow server over the SQLite file, with its UI, on a port of this machine."""
    return [
        *(sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"),
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


class _Session:
    """One journal, told to MLflow."""

    def __init__(self, journal: Path, runs: Runs):
        self.journal = journal
        self.receipts = journal.with_name("receipts.jsonl")
        self.runs = runs
        self.server = os.environ.get("MLFLOW_TRACKING_URI", "")
        self.read_to = 0
        self.metrics: list[Any] = []
        self.sent = time.monotonic()
        self.run_id = ""
        self.ended = False

    def receipt(self, name: str, **more: object) -> None:
        _append(self.receipts, {"receipt": name, **more})

    def catch_up(self) -> bool:
        """Tell MLflow what is new in the journal; gives whether there was anything."""
        with self.journal.open("rb") as file:
            file.seek(self.read_to)
            new = file.read()
        new = new[: new.rfind(b"\n") + 1]
        for line in new.splitlines():
            record = json.loads(line)
            getattr(self, "do_" + record.pop("kind"))(**record)
        self.read_to += len(new)
        if time.monotonic() - self.sent > BATCH_SECONDS:
            self.send_metrics()
        return bool(new)

    def send_metrics(self) -> None:
        while self.metrics:
            self.client.log_batch(self.run_id, metrics=self.metrics[:1000])
            del self.metrics[:1000]
        self.sent = time.monotonic()

    def do_open(self, experiment: str, name: str, params: dict[str, str], tags: dict[str, str]) -> None:
        import mlflow
        from mlflow.entities import Param, RunTag

        if not self.server:
            create_database(self.runs)
        mlflow.set_tracking_uri(self.server or database_uri(self.runs))
        self.client = mlflow.MlflowClient()
        experiment_id = self._experiment(experiment, local=not self.server)
        mlflow.set_experiment(experiment_id=experiment_id)  # where a logged model goes, whatever run it names
        run = self.client.create_run(experiment_id, run_name=name, tags=tags)
        self.run_id = run.info.run_id
        pairs = [Param(key, value[:6000]) for key, value in params.items()]
        self.client.log_batch(self.run_id, params=pairs, tags=[RunTag("torchmill.folder", str(self.journal.parent))])
        http = self.server if self.server.startswith("http") else ""
        self.receipt("opened", run_id=self.run_id, experiment_id=experiment_id, server=http)

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

    def do_metrics(self, step: int, time: int, values: dict[str, float]) -> None:
        from mlflow.entities import Metric

        self.metrics += [Metric(key, value, time, step) for key, value in values.items()]

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
            self.client.log_artifact(self.run_id, path, folder or None)

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

        self.send_metrics()  # MLflow ties the run's metrics to the model when it is logged
        proto = onnx.load(file)
        arrays = np.load(example)
        spec = {
            side: Schema([TensorSpec(arrays[side].dtype, (-1, *arrays[side].shape[1:]), side)])
            for side in ("pixels", "logits")
        }
        info = Model.log(
            artifact_path=None,
            name="onnx",
            flavor=mlflow.onnx,
            run_id=self.run_id,
            registered_model_name=name,
            await_registration_for=0,
            tags=tags,
            onnx_model=proto,
            signature=ModelSignature(spec["pixels"], spec["logits"]),
            input_example={"pixels": arrays["pixels"][:2]},
            # Named, since MLflow would otherwise find them out by running the model, for up to half a minute.
            pip_requirements=[
                f"{library}=={metadata.version(library)}" for library in ("onnxruntime", "onnx", "numpy")
            ],
            onnx_execution_providers=["CPUExecutionProvider"],
            save_as_external_data=False,
        )
        self.receipt("registered", ask=ask, version=info.registered_model_version)

    def do_settle(self, ask: str) -> None:
        self.send_metrics()
        self.receipt("settled", ask=ask)

    def do_end(self, status: Status, ask: str = "") -> None:
        self.send_metrics()
        self.client.set_terminated(self.run_id, status)
        self.ended = True
        self.receipt("ended", ask=ask)


def record(orders: BufferedReader) -> None:
    """Be the recorder: read which journal to follow from ``orders``, and follow it to its end or its writer's."""
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
    gc.disable()  # a fifth of the time that the imports take
    import mlflow
    import mlflow.onnx  # noqa: F401  here, while the run's process imports torch

    gc.enable()
    order = orders.readline()
    if not order:
        return  # the run ended before it began
    journal, runs = (Path(json.loads(order)[key]) for key in ("journal", "runs"))
    log = journal.with_name("recorder.log").open("a", encoding="utf-8")
    os.dup2(log.fileno(), sys.stderr.fileno())
    session = _Session(journal, Runs(runs))
    try:
        writer_lives = True
        while writer_lives and not session.ended:
            ready, _, _ = select.select([orders], [], [], 0.05)
            writer_lives = not ready or bool(orders.read1())
            session.catch_up()
        if not session.ended:
            session.catch_up()
            session.do_end("KILLED")  # the writer died without a word
    except Exception as error:  # whatever MLflow, its database or the disk says is told to the run's process
        message, remedy, unreachable = _in_words(error, session)
        session.receipt("refused", message=message, remedy=remedy, unreachable=unreachable)
        with contextlib.suppress(Exception):  # the run's state is worth one more try, whatever it was
            if session.run_id and not session.ended:
                session.do_end("FAILED")
        raise


def _in_words(error: Exception, session: _Session) -> tuple[str, str, bool]:
    """Give what went wrong, the remedy, and whether it is that MLflow did not answer."""
    if isinstance(error, UserError):
        return error.message, error.remedy, isinstance(error, Unreachable)
    text = " ".join(str(error).split())[:400]
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


if __name__ == "__main__":
    with open(sys.stdin.fileno(), "rb", closefd=False) as orders:
        record(orders)
