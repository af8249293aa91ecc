"""Delivery of one journal to MLflow: a method per kind of record, and receipts for the run's process."""

import contextlib
import inspect
import json
import os
import platform
import time
from collections.abc import Generator, Mapping
from pathlib import Path
from typing import Any

from torchmill.components.errors import UserError
from torchmill.components.files import append_to, write_text
from torchmill.components.runs.folders import Runs
from torchmill.components.state_files import open_file, parse_line, read_json
from torchmill.components.tracking.client import new_client, silence_mlflow, with_password
from torchmill.components.tracking.contests import Contest
from torchmill.components.tracking.database import create_database, database_uri
from torchmill.components.tracking.experiments import experiment_of, share_view
from torchmill.components.tracking.journal import ERROR_TAG, end_last_line, timestamp
from torchmill.components.tracking.metric_groups import grouped
from torchmill.components.tracking.mlflow_errors import Explanation, explain, is_refusal
from torchmill.components.tracking.model_upload import upload_model
from torchmill.components.tracking.records import Progress, Record, Status
from torchmill.components.tracking.registry import move_champion, read_standing, write_contest
from torchmill.components.wording import without_passwords

BATCH_SECONDS = 1.0
"""Longest time that metrics wait, to be sent together."""

BATCH_RECORDS = 100
"""Largest number of records with metrics that are sent together."""

BATCH_METRICS = 1000
"""MLflow's limit of metrics per call."""

HEARTBEAT_SECONDS = 60.0
"""Time between two heartbeats."""

RETRY_SECONDS = 15.0
"""Longest time between two attempts."""


class Unopened(UserError):
    """The record that opens the run is missing in its journal, and the run has no id: it can't be delivered."""

    def __init__(self, journal: Path):
        super().__init__(f"{journal} lost the record that opens the run.", "Run the same command again.")


class Delivery:
    """Sends each record of a journal to MLflow once, even if the recorder or MLflow dies at any moment.

    ``sent.json`` says how far it has come. What was sent just before a death may be sent again, which changes nothing:
    a metric of the same step, time and value is the same row; params and tags are overwritten; runs and model
    versions carry an id of ours.
    """

    def __init__(self, journal: Path, runs: Runs, token: str = ""):
        """
        Args:
            token: sign of this recorder's receipts.
        """
        self.token = token
        self.journal = journal
        self.folder = journal.parent
        self.runs = runs
        self.server = ""
        self.groups_metrics = True
        """False for a run that an earlier version began: its metrics keep their names."""
        self.sent: Progress = read_json(self.folder / "sent.json", Progress) or Progress()
        if self.sent.to > (journal.stat().st_size if journal.is_file() else 0):  # of another journal
            self.sent = self.sent.model_copy(update={"to": 0})
        end_last_line(self.folder / "receipts.jsonl")
        self.read_to = 0
        self.waiting: list[tuple[int, dict[str, Any]]] = []
        """Records to send, each with the position of its end in the journal."""
        self.recorded_metrics: set[tuple[str, int]] = set()
        """Names and steps of the metrics in the journal so far."""
        self.flushed_at = self.heartbeat_at = time.monotonic()
        self.retry_at, self.failures = 0.0, 0
        self.client: Any = None
        self.must_reopen = bool(self.sent.status)
        self.ended = ""
        """Status at the journal's end; empty while the run goes on."""

    @property
    def run_id(self) -> str:
        return self.sent.run_id

    @property
    def is_complete(self) -> bool:
        """True if MLflow has every record that was read from the journal."""
        return not self.waiting

    def read(self) -> None:
        """Read the journal's new records."""
        with open_file(self.journal) as file:
            file.seek(self.read_to)
            text = file.read()
        for line in text.split(b"\n")[:-1]:
            start = self.read_to
            self.read_to += len(line) + 1
            record = parse_line(line, Record, self.journal, start)
            if record is None or not self._has_own_files(record):
                continue
            if record["kind"] == "open":
                self.server = without_passwords(record["server"])  # an earlier version kept them
                self.groups_metrics = record.get("groups_metrics", False)
            if record["kind"] == "metrics":
                self._drop_repeated(record)
            self.ended = record["status"] if record["kind"] == "end" else ""
            if self.read_to <= self.sent.to:
                continue
            if record["kind"] == "open" and self.waiting:  # the first one was damaged, and records wait for this one
                self.waiting.insert(0, (self.sent.to, record))
            else:
                self.waiting.append((self.read_to, record))

    def _has_own_files(self, record: dict[str, Any]) -> bool:
        """Return False, and log it, if a record names a file outside of the folder of the runs: nothing sends those."""
        registered = (record["file"], record["example"]) if record["kind"] == "register" else ()
        for path in (*record.get("paths", ()), *registered):
            if not Path(os.path.normpath(self.folder / path)).is_relative_to(self.runs.folder):
                self.log(f"left out: {path} is not in {self.runs.folder}")
                return False
        return True

    def _drop_repeated(self, record: dict[str, Any]) -> None:
        """Drop the metrics that a resumed run records again: the first value of a step counts."""
        keys = {name: (name, record["step"]) for name in record["values"]}
        record["values"] = {
            name: value for name, value in record["values"].items() if keys[name] not in self.recorded_metrics
        }
        self.recorded_metrics |= set(keys.values())

    def deliver(self, gather: bool = True) -> None:
        """Send the records that wait, unless MLflow was away a moment ago.

        Args:
            gather: let metrics wait a little, to send many at once.
        """
        now = time.monotonic()
        is_young = now - self.flushed_at < BATCH_SECONDS and not self.must_reopen
        only_metrics = all(record["kind"] == "metrics" for _, record in self.waiting)
        if now < self.retry_at or (gather and only_metrics and is_young):
            return
        try:
            self.connect()
            if not self.run_id and self.waiting and self.waiting[0][1]["kind"] != "open":
                raise Unopened(self.journal)
            while self.waiting:
                self._send_next()
            if self.read_to > self.sent.to:  # damaged lines at the end
                self._save_progress(to=self.read_to)
            self.flushed_at = now
            if now - self.heartbeat_at > HEARTBEAT_SECONDS:
                self.heartbeat_at = now
                self.client.set_tag(self.run_id, "torchmill.heartbeat", timestamp())
        except Exception as error:  # the trouble of a network, a database or a disk may be over in a moment
            if not self.run_id:
                raise
            self.failures += 1
            self.retry_at = time.monotonic() + min(2.0 ** (self.failures - 1), RETRY_SECONDS)
            self.log(f"{type(error).__name__}: {error}")
            if self.failures == 1:
                self.receipt("away", message=self.explain(error).message)
            return
        if self.failures:
            self.failures = 0
            self.receipt("back")

    def connect(self) -> None:
        """Open MLflow's client, once; set a resumed run to RUNNING."""
        if self.client is None:
            silence_mlflow()
            import mlflow

            if not self.server:
                create_database(self.runs)
            mlflow.set_tracking_uri(with_password(self.server) or database_uri(self.runs))
            client = new_client()
            if self.must_reopen:
                client.update_run(self.run_id, status="RUNNING")
                self.must_reopen = False
            self.client = client

    def close_as_killed(self) -> None:
        """Set the run to KILLED: its process died without ending it."""
        if not self.run_id:
            raise Unopened(self.journal)
        self.connect()
        self.client.set_terminated(self.run_id, "KILLED")
        self._save_progress(status="KILLED")

    def _send_next(self) -> None:
        """Send the first waiting record; consecutive metrics go in one call."""
        count = 1
        kind = self.waiting[0][1]["kind"]
        if kind == "metrics":
            while count < min(len(self.waiting), BATCH_RECORDS) and self.waiting[count][1]["kind"] == "metrics":
                count += 1
        records = [record for _, record in self.waiting[:count]]
        try:
            if kind == "metrics":
                self._send_metrics(records)
            else:
                (record,) = records
                send = getattr(self, f"do_{kind}")
                names = inspect.signature(send).parameters  # another version may have written more
                send(**{name: value for name, value in record.items() if name in names})
        except Exception as error:
            if not is_refusal(error) or not self.run_id:
                raise
            self.log(f"refused: {records} {error}")
            remedy = "Was the run deleted in MLflow? Begin another with --fresh."
            self.receipt("refused", message=self.explain(error).message, remedy=remedy, unreachable=False)
        self._save_progress(to=self.waiting[count - 1][0])
        del self.waiting[:count]

    def _save_progress(self, **changes: Any) -> None:
        self._note(**changes)
        write_text(self.folder / "sent.json", self.sent.model_dump_json())

    def _note(self, **changes: Any) -> None:
        self.sent = self.sent.model_copy(update=changes)

    def log(self, text: str) -> None:
        """Append a line to the recorder's log."""
        with append_to(self.folder / "recorder.log") as file:
            file.write(f"{timestamp()} {without_passwords(text)}\n".encode())

    def receipt(self, name: str, **details: object) -> None:
        """Write a receipt for the run's process."""
        line = json.dumps({"receipt": name, "process": os.getpid(), "recorder": self.token, **details}).encode() + b"\n"
        with append_to(self.folder / "receipts.jsonl") as file:
            file.write(line)

    def explain(self, error: Exception) -> Explanation:
        """Return an error in words."""
        return explain(error, self.runs, self.server)

    # The methods below are named after the kinds of records; their parameters are the records' keys.

    def do_open(
        self, id: str, server: str, experiment: str, name: str, params: dict[str, str], tags: dict[str, str]
    ) -> None:
        import mlflow
        from mlflow.entities import Param

        experiment_id = experiment_of(self.client, experiment, self.runs, local=not server).experiment_id
        mlflow.set_experiment(experiment_id=experiment_id)  # logged models go there, whatever their run's experiment
        # A recorder may have died between creating the run and writing its id.
        runs = self.client.search_runs([experiment_id], f"tags.`torchmill.id` = '{id}'", max_results=1)
        identity = {
            "torchmill.id": id,
            "torchmill.folder": str(self.folder),
            "torchmill.host": platform.node(),
            "torchmill.heartbeat": timestamp(),
        }
        run = runs[0] if runs else self.client.create_run(experiment_id, run_name=name, tags=tags | identity)
        pairs = [Param(key, value[:6000]) for key, value in params.items()]
        self.client.log_batch(run.info.run_id, params=pairs)
        self._note(run_id=run.info.run_id, experiment_id=experiment_id)
        address = self.server if self.server.startswith("http") else ""
        self.receipt("opened", run_id=run.info.run_id, experiment_id=experiment_id, server=address)

    def do_begin(self, name: str) -> None:
        """Send nothing: the run's process reads where a step begins."""

    def do_step(self, name: str, step: dict[str, Any]) -> None:
        """Send nothing: the run's process reads steps; a metric holds their seconds."""

    def _send_metrics(self, records: list[dict[str, Any]]) -> None:
        from mlflow.entities import Metric

        metrics = [
            Metric(grouped(key) if self.groups_metrics else key, value, record["time"], record["step"])
            for record in records
            for key, value in record["values"].items()
        ]
        for start in range(0, len(metrics), BATCH_METRICS):
            self.client.log_batch(self.run_id, metrics=metrics[start : start + BATCH_METRICS])

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
        if "measure" in profile:  # an earlier version left it out
            share_view(self.client, self.sent.experiment_id, profile["measure"])

    def do_register(self, ask: str, name: str, file: str, example: str, tags: dict[str, str]) -> None:
        version = upload_model(
            self.client,
            self.run_id,
            self.sent.experiment_id,
            ask=ask,
            name=name,
            file=self.folder / file,
            example=self.folder / example,
            tags=tags,
        )
        self.receipt("registered", ask=ask, version=version)

    def do_standing(self, ask: str, name: str, version: str, until: float) -> None:
        if time.time() > until:
            return self.log("the run no longer waits for the champion")
        with self._declining(ask):
            answer = read_standing(self.client, name, version, self.run_id, self.folder, until)
            self.receipt("standing", ask=ask, **answer)

    def do_promote(
        self,
        ask: str,
        name: str,
        version: str,
        champion: str | None,
        crown: bool,
        tags: dict[str, str],
        contest: Mapping[str, str] | None = None,
    ) -> None:
        with self._declining(ask):
            if contest:
                write_contest(self.client, self.runs, name, Contest(**contest))
            is_done = not crown or move_champion(self.client, self.runs, name, version, champion, "promoted")
            if not is_done:
                tags = {"promotion.outcome": "pending", "promotion.reason": "another version became champion meanwhile"}
            for key, value in tags.items():
                self.client.set_model_version_tag(name, version, key, value)
            self.do_tags(tags)
            self.receipt("promotion", ask=ask, state="done" if is_done else "changed")

    @contextlib.contextmanager
    def _declining(self, ask: str) -> Generator[None]:
        """Answer "declined" if MLflow refuses, and let the run go on: its model is registered all the same."""
        try:
            yield
        except Exception as error:
            if not isinstance(error, UserError) and not is_refusal(error):
                raise
            self.log(f"declined: {error}")
            self.receipt("declined", ask=ask, message=self.explain(error).message)

    def do_settle(self, ask: str) -> None:
        self.receipt("settled", ask=ask)

    def do_end(self, status: Status, ask: str = "") -> None:
        if len(self.waiting) == 1:  # more records mean that the run was resumed afterwards
            if status == "FINISHED" and ERROR_TAG in self.client.get_run(self.run_id).data.tags:
                self.client.delete_tag(self.run_id, ERROR_TAG)  # from an attempt that failed
            self.client.set_terminated(self.run_id, status)
            self._note(status=status)
        self.receipt("ended", ask=ask)
