"""Flow runs whose process was killed: Prefect would show them as running for ever.

Each flow run locks a file, and the system frees the lock when the process dies. So a dead one is found at once.
Prefect's way, an automation on heartbeats, waits for minutes, and crashes healthy runs that are busy.
"""

import contextlib
import datetime
import json
import sqlite3
import sys
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID

from torchmill.components.files import append_to, locked
from torchmill.components.processes import run_python
from torchmill.components.runs.folders import Runs
from torchmill.components.state_files import Damaged, open_file, parse_json
from torchmill.flows.services.prefect_client import connected
from torchmill.flows.services.processes import answers
from torchmill.flows.services.up_state import Address

FLOWS = ("train", "reproduce")
MINIMUM_AGE = datetime.timedelta(minutes=1)
"""Age at which a flow run without a lock counts as dead: a new one takes a moment to get it."""
REASON = "Its process died without a word: killed, or the machine went down."


@dataclass
class WatchedFlow:
    """Content of a flow run's lock file."""

    api: Address


@contextlib.contextmanager
def under_watch(runs: Runs, flow_run: str, api: str) -> Generator[None]:
    """Hold a flow run's lock inside the block.

    Args:
        flow_run: the flow run's id.
        api: address of the Prefect server with the flow run; empty for the folder's own server.
    """
    path = runs.work / "flows" / flow_run
    path.parent.mkdir(exist_ok=True)
    with locked(path):
        path.write_text(json.dumps({"api": api}))
        try:
            yield
        finally:
            path.unlink(missing_ok=True)


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
            if is_free and not (own and _api(path)):
                files.append(path)
    return files


def close(runs: Runs, own_api: str) -> list[str]:
    """Mark dead flow runs as crashed, and return a line on each. Servers that don't answer are left for later.

    Args:
        own_api: address of the folder's own server; empty to leave its flow runs alone.
    """
    lines = []
    for path in dead(runs):
        theirs = _api(path)
        api = theirs or own_api
        if not api or not answers(f"{api}/health", anything=True):
            continue
        with connected(runs, api, is_own=not theirs):
            name = crash(path.name, REASON)
        if name:
            lines.append(f"flow run {name} in Prefect: crashed")
        path.unlink(missing_ok=True)
    return lines


def close_elsewhere(runs: Runs, own_api: str) -> None:
    """Call ``close`` in another process: Prefect's client takes seconds to import, and a server may not answer."""
    with append_to(runs.work / "prefect.log") as log:
        run_python("-m", "torchmill.flows.services.crashed_runs", str(runs.folder), own_api, stdout=log, stderr=log)


def _api(path: Path) -> str:
    try:
        with open_file(path) as file:
            return parse_json(file.read(), WatchedFlow).api
    except (OSError, Damaged):  # it has ended meanwhile, or was killed before the file was written
        return ""


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
            crash(str(flow_run.id), REASON)
        lines.append(f"flow run {flow_run.name} in Prefect: {'to be crashed' if dry_run else 'crashed'}")
    return lines


def crash(flow_run_id: str, message: str) -> str:
    """Mark a flow run and its tasks as crashed, and return its name; empty if it had ended or is unknown."""
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId
    from prefect.exceptions import ObjectNotFound
    from prefect.states import Crashed

    state = Crashed(message=message)
    with get_client(sync_client=True) as client:
        try:
            flow_run = client.read_flow_run(UUID(flow_run_id))
        except ObjectNotFound:
            return ""
        for task_run in client.read_task_runs(flow_run_filter=FlowRunFilter(id=FlowRunFilterId(any_=[flow_run.id]))):
            if task_run.state is None or not task_run.state.is_final():
                client.set_task_run_state(task_run.id, state, force=True)
        if flow_run.state is not None and flow_run.state.is_final():
            return ""
        client.set_flow_run_state(flow_run.id, state, force=True)
        return flow_run.name


if __name__ == "__main__":
    close(Runs(Path(sys.argv[1])), sys.argv[2])
