"""Runs that MLflow has recorded: find one, fetch its files, close one that died."""

import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from torchmill.components.errors import UserError, nearest
from torchmill.components.runs.folders import Runs
from torchmill.components.runs.reproduction import RecordedRun
from torchmill.components.tracking.registry import within
from torchmill.components.tracking.store import open_client

logger = logging.getLogger("torchmill")


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
    with open_client(runs) as client:
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
    with open_client(runs) as client:
        client.set_terminated(run_id, "KILLED")


def find_run(runs: Runs, run: str) -> RecordedRun:
    """Read a run by its id, the beginning of it, or its name; ``last`` is the latest that has trained weights.

    Raises:
        UserError: there is none, or several; or MLflow doesn't answer.
    """
    with open_client(runs) as client:
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
    return RecordedRun(
        found.info.run_id, found.info.run_name, found.info.status, found.data.tags, found.data.params, metrics
    )


def tag(runs: Runs, run_id: str, tags: Mapping[str, str]) -> None:
    """Put tags on a run that is over.

    Raises:
        UserError: MLflow doesn't answer.
    """
    with open_client(runs) as client:
        for name, value in tags.items():
            client.set_tag(run_id, name, value)


def fetch_file(runs: Runs, run: RecordedRun, name: str, folder: Path) -> Path:
    """Copy an artifact of a run, as ``weights/best.safetensors``, into a folder; gives its place there.

    Raises:
        UserError: it isn't there.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with open_client(runs) as client:
        parent = name.rpartition("/")[0]
        if name not in {item.path for item in client.list_artifacts(run.run_id, parent or None)}:
            raise UserError(f"Run {run.name} has no {name} among its artifacts.", "Did it come to its end?")
        return Path(client.download_artifacts(run.run_id, name, str(folder)))


def fetch_snapshot(runs: Runs, run: RecordedRun, folder: Path) -> None:
    """Copy what a run was made from out of its artifacts: ``config.yaml`` and ``code/``.

    Raises:
        UserError: it isn't there.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with open_client(runs) as client:
        there = {item.path for item in client.list_artifacts(run.run_id)}
        for name in ("config.yaml", "code"):
            if name in there:
                client.download_artifacts(run.run_id, name, str(folder))
    if "config.yaml" not in there:
        raise UserError(f"Run {run.name} has no config.yaml among its artifacts: nobody knows what it was made from.")


def attach(runs: Runs, run_id: str, file: Path, folder: str, seconds: float) -> bool:
    """Store a file among the artifacts of a run that is over; False where that does not succeed in time."""

    def store() -> Path:
        with open_client(runs) as client:
            client.log_artifact(run_id, str(file), folder)
        return file

    try:
        within(store, time.time() + seconds)
    except Exception as error:  # whatever it is: nothing hangs on it
        logger.debug("%s was not stored: %s", file, error)
        return False
    return True
