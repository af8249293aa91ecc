"""Flow runs whose process was killed: Prefect would show them as running for ever.

Each flow run locks a file, and the system frees the lock when the process dies. So a dead one is found at once.
Prefect's way, an automation on heartbeats, waits for minutes, and crashes healthy runs that are busy.
"""

import contextlib
import datetime
import sqlite3
import sys
from collections.abc import Generator
from pathlib import Path
from typing import TYPE_CHECKING, Literal
from uuid import UUID

from pydantic import BaseModel

from torchmill.components.files import append_to, locked
from torchmill.components.processes import run_python
from torchmill.components.runs.folders import Runs
from torchmill.components.state_files import Damaged, open_file, parse_json
from torchmill.flows.services.prefect_client import connected
from torchmill.flows.services.processes import answers
from torchmill.flows.services.up_state import Address

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient

FLOWS = ("train", "reproduce")
MINIMUM_AGE = datetime.timedelta(minutes=1)
"""Age at which a flow run without a lock counts as dead: a new one takes a moment to get it."""
REASON = "Its process died without a word: killed, or the machine went down."
LATE = "Prefect's server was away when it ended."


Outcome = Literal["COMPLETED", "FAILED", "CRASHED"]


class Note(BaseModel):
    """Content of a flow run's lock file: its end, if its server was away then."""

    api: Address = ""
    """Address of the server with the flow run; empty for the folder's own."""
    outcome: Outcome = "CRASHED"
    tasks: tuple[tuple[str, str], ...] = ()
    """Name and id of each task run that ended well."""
    artifacts: tuple[dict[str, str], ...] = ()
    """Pages that the server did not take."""


@contextlib.contextmanager
def under_watch(runs: Runs, flow_run: str, api: str) -> Generator[None]:
    """Hold a flow run's lock inside the block.

    Args:
        flow_run: the flow run's id.
        api: address of the Prefect server with the flow run; empty for the folder's own server.
    """
    path = _lock_file(runs, flow_run)
    with contextlib.ExitStack() as lock:
        lock.enter_context(locked(path))
        path.write_text(Note(api=api).model_dump_json())
        try:
            yield
        finally:
            if flow_run in _noted:
                _locks.append(lock.pop_all())
            else:
                path.unlink(missing_ok=True)


_noted: set[str] = set()
"""Flow runs of this process with a note on their end."""
_locks: list[contextlib.ExitStack] = []
"""Locks that this process keeps to its end: until then, Prefect may still be sending what it knows."""


def leave_note(runs: Runs, flow_run: str, note: Note) -> None:
    """Note how a flow run ended whose server was away. After the end of this process, ``close`` tells the server."""
    path = _lock_file(runs, flow_run)
    if not path.exists():  # not under watch
        lock = contextlib.ExitStack()
        lock.enter_context(locked(path))
        _locks.append(lock)
    _noted.add(flow_run)
    path.write_text(note.model_dump_json())  # in place: the lock is on this file


def _lock_file(runs: Runs, flow_run: str) -> Path:
    path = runs.work / "flows" / flow_run
    path.parent.mkdir(exist_ok=True)
    return path


def dead(runs: Runs, own: bool = False) -> list[Path]:
    """Return the files of flow runs whose process has died.

    Args:
        own: leave out those on other servers than the folder's own.
    """
    files = []
    for path in sorted((runs.work / "flows").glob("*")):
        if not _is_id(path.name):
            continue
        with locked(path, wait=False) as is_free:
            if is_free and not (own and _note(path).api):
                files.append(path)
    return files


def close(runs: Runs, own_api: str) -> list[str]:
    """Mark dead flow runs as crashed, and return a line on each. Servers that don't answer are left for later.

    Args:
        own_api: address of the folder's own server; empty to leave its flow runs alone.
    """
    lines = []
    for path in dead(runs):
        note = _note(path)
        api = note.api or own_api
        if not api or not answers(f"{api}/health", anything=True):
            continue
        with connected(runs, api, is_own=not note.api):
            name = conclude(path.name, note)
        if name:
            lines.append(f"flow run {name} in Prefect: {note.outcome.lower()}")
        path.unlink(missing_ok=True)
    return lines


def close_elsewhere(runs: Runs, own_api: str) -> None:
    """Call ``close`` in another process: Prefect's client takes seconds to import, and a server may not answer."""
    with append_to(runs.work / "prefect.log") as log:
        run_python("-m", "torchmill.flows.services.crashed_runs", str(runs.folder), own_api, stdout=log, stderr=log)


def _note(path: Path) -> Note:
    try:
        with open_file(path) as file:
            return parse_json(file.read(), Note)
    except (OSError, Damaged):  # it has ended meanwhile, or was killed before the file was written
        return Note()


def _is_id(name: str) -> bool:
    try:
        return str(UUID(name)) == name
    except ValueError:
        return False


def says_that_some_run(runs: Runs) -> bool:
    """Return True if a flow run counts as running in the folder's own Prefect database.

    The query needs no server. If the database has another schema, the answer is True, and the caller asks a server.
    """
    database = runs.prefect_database
    if not database.exists():
        return False
    count = "SELECT count(*) FROM flow_run WHERE state_type IN ('RUNNING', 'PENDING', 'CANCELLING')"
    try:
        with contextlib.closing(sqlite3.connect(database, timeout=60)) as connection:
            return connection.execute(count).fetchone()[0] > 0
    except sqlite3.Error:
        return True


def close_unwatched(runs: Runs, dry_run: bool) -> list[str]:
    """Mark flow runs as crashed that count as running without a lock file, and return a line on each.

    They were killed before they got their lock, or are older than these locks. New ones and those of the runner of
    ``torchmill up`` are left alone.
    """
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import (
        FlowFilter,
        FlowFilterName,
        FlowRunFilter,
        FlowRunFilterState,
        FlowRunFilterStateType,
    )
    from prefect.client.schemas.objects import StateType

    lines = []
    running = FlowRunFilterStateType(any_=[StateType.RUNNING, StateType.PENDING, StateType.CANCELLING])
    with get_client(sync_client=True) as client:
        flow_runs = client.read_flow_runs(
            flow_filter=FlowFilter(name=FlowFilterName(any_=list(FLOWS))),
            flow_run_filter=FlowRunFilter(state=FlowRunFilterState(type=running)),
        )
    newest = datetime.datetime.now(datetime.UTC) - MINIMUM_AGE
    for flow_run in flow_runs:
        is_watched = (runs.work / "flows" / str(flow_run.id)).exists()
        if is_watched or flow_run.deployment_id or not flow_run.state or flow_run.state.timestamp > newest:
            continue
        if not dry_run:
            conclude(str(flow_run.id), Note())
        lines.append(f"flow run {flow_run.name} in Prefect: {'to be crashed' if dry_run else 'crashed'}")
    return lines


def conclude(flow_run_id: str, note: Note, crash_reason: str = REASON) -> str:
    """Tell Prefect the end of a flow run and of its tasks; return its name, or "" if it had ended or is unknown."""
    from prefect import states
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.actions import ArtifactCreate
    from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId
    from prefect.exceptions import ObjectNotFound

    new_states = {
        "COMPLETED": states.Completed(message=LATE),
        "FAILED": states.Failed(message=LATE),
        "CRASHED": states.Crashed(message=crash_reason),
    }
    with get_client(sync_client=True) as client:
        try:
            flow_run = client.read_flow_run(UUID(flow_run_id))
        except ObjectNotFound:
            return ""
        tasks = client.read_task_runs(flow_run_filter=FlowRunFilter(id=FlowRunFilterId(any_=[flow_run.id])))
        done = dict(note.tasks)
        for task_run in tasks:
            if task_run.state is None or not task_run.state.is_final():
                outcome = "COMPLETED" if str(task_run.id) in done.values() else note.outcome
                client.set_task_run_state(task_run.id, new_states[outcome], force=True)
        known = {str(task_run.id) for task_run in tasks}
        for name, task_run_id in note.tasks:
            if task_run_id not in known:
                _create_task_run(client, flow_run.id, name, UUID(task_run_id))
                client.set_task_run_state(UUID(task_run_id), new_states["COMPLETED"], force=True)
        for artifact in note.artifacts:
            client.create_artifact(ArtifactCreate(**artifact, flow_run_id=flow_run.id))  # ty: ignore[invalid-argument-type]
        if flow_run.state is not None and flow_run.state.is_final():
            return ""
        client.set_flow_run_state(flow_run.id, new_states[note.outcome], force=True)
        return flow_run.name


def _create_task_run(client: "SyncPrefectClient", flow_run_id: UUID, name: str, task_run_id: UUID) -> None:
    """Record a task run of which the server never heard."""
    from prefect import Task

    task = Task(lambda: None, name=name)
    client.create_task_run(task, flow_run_id, name, id=task_run_id, name=name)


if __name__ == "__main__":
    close(Runs(Path(sys.argv[1])), sys.argv[2])
