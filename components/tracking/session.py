"""One journal's delivery to MLflow: a method per kind of record, and receipts for the run."""

import contextlib
import json
import os
import platform
import time
from collections.abc import Generator
from importlib import metadata
from pathlib import Path
from typing import Any

from torchmill.components.errors import Unreachable, UserError
from torchmill.components.files import write_text
from torchmill.components.runs.folders import Runs
from torchmill.components.tracking.journal import ERROR_TAG, Status
from torchmill.components.tracking.registry import (
    download_onnx,
    move_champion,
    read_champions,
    read_version,
    set_challenger,
    within,
)
from torchmill.components.tracking.store import be_silent, create_database, database_uri, short_reason

BATCH_SECONDS = 1.0  # metrics are kept this long, to send many at once

HEARTBEAT_SECONDS = 60.0


class Session:
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
            file.write(f"{timestamp()} {text}\n")

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
                self.client.set_tag(self.run_id, "torchmill.heartbeat", timestamp())
        except Exception as error:  # the network, a database, a disk: whatever it is may be over in a moment
            if not self.run_id:
                raise
            self.failures += 1
            self.retry_at = time.monotonic() + min(2.0 ** (self.failures - 1), 15.0)
            self.log(f"{type(error).__name__}: {error}")
            if self.failures == 1:
                self.receipt("away", message=explain(error, self)[0])
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
            if not is_refusal(error) or not self.run_id:
                raise
            self.log(f"refused: {records} {error}")
            remedy = "Was the run deleted in MLflow? Begin another with --fresh."
            self.receipt("refused", message=explain(error, self)[0], remedy=remedy, unreachable=False)
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
            "torchmill.heartbeat": timestamp(),
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
                set_challenger(self.client, name, str(known.version))
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
        set_challenger(self.client, name, str(info.registered_model_version))
        self.receipt("registered", ask=ask, version=info.registered_model_version)

    def do_standing(self, ask: str, name: str, version: str, until: float) -> None:
        if time.time() > until:
            return self.log("nobody waits any more to hear who is champion")
        with self.declining(ask):
            champions, champion = read_champions(self.client, name)
            was_champion = version != champion and version in champions
            if champion in (None, version):
                held = None if champion is None else {"name": name, "version": version, "run_id": self.run_id}
                return self.receipt("standing", ask=ask, champion=held, file=None, was_champion=was_champion)
            found = read_version(self.client, name, str(champion))
            file = within(lambda: download_onnx(self.client, found, self.folder / f"champion-{champion}"), until)
            held = {"name": name, "version": found.version, "run_id": found.run_id, "tags": found.tags}
            self.receipt("standing", ask=ask, champion=held, file=str(file), was_champion=was_champion)

    def do_promote(
        self, ask: str, name: str, version: str, champion: str | None, crown: bool, tags: dict[str, str]
    ) -> None:
        with self.declining(ask):
            moved = not crown or move_champion(self.client, self.runs, name, version, champion, "promoted")
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
            if not isinstance(error, UserError) and not is_refusal(error):
                raise
            self.log(f"declined: {error}")
            message = error.message if isinstance(error, UserError) else explain(error, self)[0]
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


def timestamp() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S%z")


def is_refusal(error: Exception) -> bool:
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


def explain(error: Exception, session: Session) -> tuple[str, str, bool]:
    """Give what went wrong, the remedy, and whether it is that MLflow did not answer."""
    if isinstance(error, UserError):
        return error.message, error.remedy, isinstance(error, Unreachable)
    text = short_reason(error)
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
