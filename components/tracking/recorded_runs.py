"""Runs that MLflow has recorded: find one, fetch its files, tag it, close one that died."""

import contextlib
import logging
import re
import sqlite3
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torchmill.components.errors import UserError, nearest
from torchmill.components.refs import PENDING, TrainResult
from torchmill.components.runs.folders import Runs
from torchmill.components.runs.reproduction import RecordedRun
from torchmill.components.tracking.client import call_until, open_client, server_address
from torchmill.components.tracking.metric_groups import ungrouped

logger = logging.getLogger("torchmill")

SHORTEST_ID_PREFIX = 6
"""Characters of a run's id that are enough to name it."""
MOST_NAMESAKES = 100
"""Number of runs of one name that are counted."""
MOST_SUGGESTED = 1000
"""Number of the latest runs among whose names the nearest ones are looked for."""


def find_run(runs: Runs, reference: str) -> RecordedRun:
    """Return a run with its metrics.

    Args:
        reference: the run's id, the first six characters of it or more, or its name; ``last`` is the latest run that
            has trained weights.

    Raises:
        UserError: no run fits, or several do; or MLflow doesn't answer.
    """
    with open_client(runs) as client:
        run = _match(client, reference)
        metrics = {
            ungrouped(key): sorted(
                (point.step, point.value) for point in client.get_metric_history(run.info.run_id, key)
            )
            for key in sorted(run.data.metrics)
        }
    return RecordedRun(run.info.run_id, run.info.run_name, run.info.status, run.data.tags, run.data.params, metrics)


def still_recorded(runs: Runs) -> Callable[[TrainResult], bool]:
    """Return a function that checks whether MLflow still has a result's run and model version.

    It logs the missing one. If MLflow doesn't answer, it returns True.
    """

    def is_recorded(result: TrainResult) -> bool:
        model, version = result.onnx.model, result.onnx.version
        try:
            has_run = _has_run(runs, result.run_id)
            is_there = has_run and (version in (None, PENDING) or is_registered(runs, model, version))
        except UserError as error:
            logger.warning("MLflow could not be asked whether it still has run %s: %s", result.name, error.message)
            return True
        if not is_there:
            subject = f"{model} version {version}" if has_run else f"run {result.name}"
            logger.info("%s was deleted in MLflow: it is recorded anew", subject)
        return is_there

    return is_recorded


def _has_run(runs: Runs, run_id: str) -> bool:
    query = "SELECT 1 FROM runs WHERE run_uuid = ? AND lifecycle_stage = 'active'"
    return _exists(runs, query, (run_id,), lambda client: client.get_run(run_id).info.lifecycle_stage == "active")


def is_registered(runs: Runs, model: str, version: str) -> bool:
    """Return True if a version of a model is in the registry.

    Raises:
        UserError: MLflow doesn't answer.
    """
    # With the workspace, SQLite finds the row by the primary key; without, it reads all versions.
    query = (
        "SELECT 1 FROM model_versions WHERE workspace = 'default' AND name = ? AND version = ? "
        "AND current_stage IS NOT 'Deleted_Internal'"
    )
    return _exists(runs, query, (model, version), lambda client: bool(client.get_model_version(model, version)))


def _exists(runs: Runs, query: str, values: tuple[str, ...], ask: Callable[[Any], bool]) -> bool:
    """Return whether a query finds a row in the SQLite file; with a server, what ``ask`` returns.

    The file is read without MLflow, which takes seconds to import.
    """
    if not server_address():
        if not runs.database.exists():
            return False
        with contextlib.closing(sqlite3.connect(runs.database, timeout=60)) as connection:
            return connection.execute(query, values).fetchone() is not None
    with open_client(runs) as client:
        from mlflow.exceptions import MlflowException

        try:
            return ask(client)
        except MlflowException as error:
            if error.error_code == "RESOURCE_DOES_NOT_EXIST":
                return False
            raise


def _match(client: Any, reference: str) -> Any:
    """Return the run that a reference names. MLflow filters: a store may hold many thousands of runs."""
    matches = []
    if re.fullmatch(rf"\w{{{SHORTEST_ID_PREFIX},}}", reference):
        matches = _search(client, f"attributes.run_id LIKE '{reference}%'")
    if reference not in {run.info.run_id for run in matches} and "'" not in reference:  # MLflow knows no escapes
        matches += _search(client, f"attributes.run_name = '{reference}'")
    if reference == "last" and not matches:
        matches = _search(client, "tags.`weights.sha256` LIKE '%'", ["attributes.start_time DESC"], most=1)
        if not matches:
            raise UserError("There is no run yet.", "`torchmill train` makes one.")
    matches = [run for run in matches if run.info.run_id == reference] or matches
    if not matches:
        names = {run.info.run_name for run in _search(client, "", most=MOST_SUGGESTED)}
        raise UserError(f"There is no run '{reference}'.", nearest(reference, names))
    if len(matches) > 1:
        ids = ", ".join(run.info.run_id for run in matches[:5])
        number = f"{len(matches)}{' or more' if len(matches) >= MOST_NAMESAKES else ''}"
        raise UserError(f"There are {number} runs called '{reference}'.", f"Give the id: {ids}.")
    return matches[0]


def _search(client: Any, condition: str, order: Sequence[str] = (), most: int = MOST_NAMESAKES) -> list[Any]:
    experiments: list[str] = []
    token: str | None = ""
    while token is not None:
        page = client.search_experiments(page_token=token or None)
        experiments += [experiment.experiment_id for experiment in page]
        token = page.token or None
    return (
        list(client.search_runs(experiments, condition, order_by=list(order), max_results=most)) if experiments else []
    )


@dataclass(frozen=True)
class RunningRun:
    """A run whose status in MLflow is RUNNING."""

    run_id: str
    name: str
    folder: Path | None
    """Folder of the run on the host that runs it; None if something else than Torchmill began the run."""
    host: str
    heartbeat: str
    """Time of the recorder's last sign of life."""


def running_runs(runs: Runs) -> list[RunningRun]:
    """Return the runs whose status in MLflow is RUNNING.

    Raises:
        UserError: MLflow doesn't answer.
    """
    with open_client(runs) as client:
        return [
            run for experiment in client.search_experiments() for run in _running_in(client, experiment.experiment_id)
        ]


def _running_in(client: Any, experiment_id: str) -> Iterator[RunningRun]:
    token: str | None = ""
    while token is not None:
        page = client.search_runs([experiment_id], "attributes.status = 'RUNNING'", page_token=token or None)
        for run in page:
            tags = run.data.tags
            folder = Path(tags["torchmill.folder"]) if "torchmill.folder" in tags else None
            host, heartbeat = tags.get("torchmill.host", ""), tags.get("torchmill.heartbeat", "")
            yield RunningRun(run.info.run_id, run.info.run_name, folder, host, heartbeat)
        token = page.token or None


def close_run(runs: Runs, run_id: str) -> None:
    """Set a run to KILLED, because its process is gone."""
    with open_client(runs) as client:
        client.set_terminated(run_id, "KILLED")


def tag_run(runs: Runs, run_id: str, tags: Mapping[str, str]) -> None:
    """Write tags onto a run that has ended.

    Raises:
        UserError: MLflow doesn't answer.
    """
    with open_client(runs) as client:
        for name, value in tags.items():
            client.set_tag(run_id, name, value)


def fetch_file(runs: Runs, run: RecordedRun, name: str, folder: Path) -> Path:
    """Copy an artifact, for example ``weights/best.safetensors``, into a folder and return its path there.

    Raises:
        UserError: the run has no such artifact.
    """
    with open_client(runs) as client:
        path = download_artifact(client, run.run_id, name, folder)
    if path is None:
        raise UserError(f"Run {run.name} has no {name} among its artifacts.", "Did it come to its end?")
    return path


def download_artifact(client: Any, run_id: str, name: str, folder: Path) -> Path | None:
    """Return the path of a run's artifact, copied into a folder; None if the run is gone or has no such artifact."""
    from mlflow.exceptions import MlflowException

    try:
        names = {item.path for item in client.list_artifacts(run_id, name.rpartition("/")[0] or None)} if run_id else ()
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        names = ()
    if name not in names:
        return None
    folder.mkdir(parents=True, exist_ok=True)
    return Path(client.download_artifacts(run_id, name, str(folder)))


def fetch_snapshot(runs: Runs, run: RecordedRun, folder: Path) -> None:
    """Copy a run's snapshot, ``config.yaml`` and ``code/``, from its artifacts into a folder.

    Raises:
        UserError: the run has no snapshot.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with open_client(runs) as client:
        artifacts = {item.path for item in client.list_artifacts(run.run_id)}
        for name in ("config.yaml", "code"):
            if name in artifacts:
                client.download_artifacts(run.run_id, name, str(folder))
    if "config.yaml" not in artifacts:
        raise UserError(f"Run {run.name} has no config.yaml among its artifacts: nobody knows what it was made from.")


def attach_file(runs: Runs, run_id: str, file: Path, folder: str, timeout_seconds: float) -> bool:
    """Store a file among the artifacts of a run that has ended; return False if that fails or takes too long."""

    def store() -> Path:
        with open_client(runs) as client:
            client.log_artifact(run_id, str(file), folder)
        return file

    try:
        call_until(time.time() + timeout_seconds, store)
    except Exception as error:  # nothing depends on the file
        logger.debug("%s was not stored: %s", file, error)
        return False
    return True
