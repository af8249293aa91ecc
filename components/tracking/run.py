"""Record runs in MLflow: the only file that knows it.

A run's process appends to a journal on disk; a second process, the recorder, reads the journal and tells MLflow.
So nothing waits for MLflow while a network trains, and a run whose process is killed is still closed.
"""

import contextlib
import json
import logging
import math
import os
import subprocess
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torchmill.components.errors import Unreachable, UserError
from torchmill.components.processes import Process, start_python
from torchmill.components.refs import DataRef, ExportRef, RunRef, StepRef
from torchmill.components.runs.folders import Runs
from torchmill.components.tracking.champions import ModelVersion
from torchmill.components.tracking.journal import ERROR_TAG, Journal, Status, now_ms, read_delivered, read_lines
from torchmill.components.tracking.store import SILENCE, relocate

logger = logging.getLogger("torchmill")

OPEN_SECONDS = 180.0  # the very first run creates MLflow's database; a slow machine may take a minute for it

STORE_SECONDS = 300.0  # for all artifacts to be stored

PROMOTION_SECONDS = 60.0  # for the champion's file to arrive, and for the alias to be set

AWAY_SECONDS = 10.0  # so long a run waits at its end for an MLflow that does not answer

RESTARTS = 3  # of a recorder that dies, each time that something is waited for


class Recorder:
    """The second process. Start it early: it imports MLflow meanwhile."""

    def __init__(self, spare: Process | None = None) -> None:
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


def take(spare: Process) -> None:
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
    _append(run, {"kind": "metrics", "step": step, "time": now_ms(), "values": finite})


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


def promote(run: RunRef, version: str, name: str, *, champion: str | None, move: bool, tags: Mapping[str, str]) -> str:
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
    order = {"name": name, "version": version, "champion": champion, "crown": move, "tags": dict(tags)}
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


def _append(run: RunRef, record: Mapping[str, Any]) -> None:
    _journal(run).append(record)


def _journal(run: RunRef) -> Journal:
    return _journals.get(run.folder) or Journal(run.folder)


def _await(folder: Path, wanted: Callable[[dict[str, Any]], bool], seconds: float) -> dict[str, Any] | None:
    """Wait for a receipt of the recorder's; None where MLflow doesn't answer."""
    begun = time.monotonic()
    moved, position = begun, ""
    restarts = 0
    while True:
        recorder = _recorders[folder]
        gone = recorder.process.poll() is not None
        receipts = read_lines(folder / "receipts.jsonl")
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
        if (latest := read_delivered(folder)) != position:
            moved, position = now, latest
        time.sleep(0.02)
