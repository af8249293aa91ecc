"""The run's own side of tracking: every call appends to the run's journal, and few wait for MLflow."""

import logging
import math
import os
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torchmill.components.errors import UserError
from torchmill.components.refs import DataRef, RunRef, StepRef
from torchmill.components.runs.folders import Runs
from torchmill.components.state_files import read_json_lines
from torchmill.components.tracking.client import server_address
from torchmill.components.tracking.database import relocate
from torchmill.components.tracking.journal import ERROR_TAG, JOURNAL, Journal, now_ms
from torchmill.components.tracking.recorder_process import (
    dismiss_recorder,
    start_recorder,
    wait_for_answer,
    wait_for_receipt,
)
from torchmill.components.tracking.records import Record, Status

logger = logging.getLogger("torchmill")

OPEN_SECONDS = 180.0
"""Longest wait for the run's id: the first run creates MLflow's database, a minute's work on a slow machine."""

STORE_SECONDS = 300.0
"""Longest wait, without progress, until MLflow has stored all artifacts."""

END_SECONDS = 15.0
"""Longest wait for the end of a run; the recorder goes on without this process."""

_journals: dict[Path, Journal] = {}
"""Journals of the runs that this process has opened, by the run's folder."""


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
    """Begin a run in MLflow, or resume the run whose journal the folder holds; wait until it has an id.

    Args:
        folder: the run's folder, which holds its journal.
        ui: address of the MLflow UI, for links.

    Raises:
        UserError: MLflow's database or server can't be used.
    """
    if not server_address():
        for former in relocate(runs):
            logger.info("%s was at %s: MLflow's addresses of artifacts follow", runs.folder, former)
    journal = _journals[folder] = Journal(folder)
    if any(record["kind"] == "open" for record in journal.records()):
        journal.append({"kind": "tags", "tags": dict(tags)})
    else:
        journal.append(
            {
                "kind": "open",
                "id": uuid.uuid4().hex,
                "server": server_address(),
                "experiment": experiment,
                "name": name,
                "params": dict(params),
                "tags": dict(tags),
                "groups_metrics": True,
            }
        )
    start_recorder(folder, runs)
    receipt = wait_for_receipt(folder, lambda receipt: receipt["receipt"] == "opened", OPEN_SECONDS)
    assert receipt
    base = receipt["server"] or ui
    url = f"{base.rstrip('/')}/#/experiments/{receipt['experiment_id']}/runs/{receipt['run_id']}"
    return RunRef(run_id=receipt["run_id"], name=name, folder=folder, url=url, fresh=fresh)


def flush(run: RunRef) -> bool:
    """Wait until MLflow has everything that was recorded so far; return False if it doesn't answer.

    Raises:
        UserError: MLflow refused a record, or the journal could not be written.
    """
    ask = uuid.uuid4().hex
    append(run, {"kind": "settle", "ask": ask})
    _journal(run).sync()
    return wait_for_answer(run.folder, ask, STORE_SECONDS) is not None


def end_run(run: RunRef, status: Status, timeout_seconds: float = END_SECONDS) -> bool:
    """End the run, and return whether MLflow knows it by the time-out. The recorder goes on if it doesn't."""
    ask = uuid.uuid4().hex
    append(run, {"kind": "end", "status": status, "ask": ask})
    try:
        return wait_for_answer(run.folder, ask, timeout_seconds) is not None
    except UserError:
        return False
    finally:
        _journals.pop(run.folder, None)
        dismiss_recorder(run.folder)


def append(run: RunRef, record: Mapping[str, Any]) -> None:
    """Append a record to the run's journal."""
    _journal(run).append(record)


def _journal(run: RunRef) -> Journal:
    return _journals.get(run.folder) or Journal(run.folder)


def log_metrics(run: RunRef, values: Mapping[str, float], step: int = 0) -> None:
    """Record metrics at a step. The first value of a metric at a step counts.

    NaN and infinity are left out: MLflow's databases don't take them.

    Example:
        >>> log_metrics(run, {"train_loss": 0.31}, step=4)
    """
    finite = {name: value for name, value in values.items() if math.isfinite(value)}
    append(run, {"kind": "metrics", "step": step, "time": now_ms(), "values": finite})


def log_params(run: RunRef, params: Mapping[str, object]) -> None:
    """Record params in addition to the configuration's."""
    append(run, {"kind": "params", "params": {name: str(value) for name, value in params.items()}})


def log_tags(run: RunRef, tags: Mapping[str, str]) -> None:
    """Record tags."""
    append(run, {"kind": "tags", "tags": dict(tags)})


def log_error(run: RunRef, error: Exception) -> None:
    """Record why the run fails. The tag is deleted if the run is resumed and finishes."""
    log_tags(run, {ERROR_TAG: f"{type(error).__name__}: {error}"[:4000]})


def log_files(run: RunRef, paths: Sequence[Path], folder: str = "") -> None:
    """Store files among the run's artifacts. The recorder reads them later: don't change them."""
    # Relative paths survive a move of the runs' folder before delivery.
    relative = [os.path.relpath(path, run.folder) for path in paths]
    append(run, {"kind": "files", "paths": relative, "folder": folder})


def log_dataset(run: RunRef, data: DataRef) -> None:
    """Record which data the run uses."""
    profile = {
        "classes": len(data.classes),
        "kind": data.kind,
        "task": data.goal.reference if data.goal else data.task,
        "measure": data.measure,
        "shape": data.shape,
        "train_size": data.train_size,
        "test_size": data.test_size,
    }
    # MLflow takes 36 characters of a digest; a tag holds the whole SHA-256.
    record = {"name": data.name, "digest": data.sha256[:32], "source": data.source, "profile": profile}
    append(run, {"kind": "dataset", **record})
    log_tags(run, {"data.sha256": data.sha256})


def begin_step(run: RunRef, name: str) -> None:
    """Record that a step begins. All records until its end belong to it."""
    append(run, {"kind": "begin", "name": name})


def log_step(run: RunRef, name: str, step: StepRef) -> None:
    """Record how a step ended."""
    append(run, {"kind": "step", "name": name, "step": step.model_dump()})
    if step.state != "cached":
        log_metrics(run, {f"seconds.{name}": step.seconds})
    _journals[run.folder].sync()


def replay(run: RunRef, source: Path, name: str) -> None:
    """Copy the records of a step from another run, whose result this run uses.

    Args:
        source: the other run's folder.
    """
    is_inside = False
    for record in read_json_lines(source / JOURNAL, Record):
        if record["kind"] in ("begin", "step") and record["name"] == name:
            is_inside = record["kind"] == "begin"
        elif is_inside and record["kind"] == "files":
            log_files(run, [source / path for path in record["paths"]], record["folder"])
        elif is_inside and record["kind"] in ("metrics", "params", "tags", "dataset"):
            append(run, record)


def recorded_steps(run: RunRef) -> dict[str, StepRef]:
    """Return the steps in the run's journal, by name."""
    records = [record for record in _journal(run).records() if record["kind"] == "step"]
    return {record["name"]: StepRef(**record["step"]) for record in records}


def recorded_metrics(run: RunRef) -> dict[str, list[tuple[int, float]]]:
    """Return the metrics in the run's journal: by name, steps and values in order."""
    curves: dict[str, dict[int, float]] = {}
    for record in _journal(run).records():
        if record["kind"] == "metrics":
            for name, value in record["values"].items():
                curves.setdefault(name, {}).setdefault(record["step"], value)
    return {name: sorted(points.items()) for name, points in curves.items()}
