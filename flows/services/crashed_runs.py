"""Flow runs whose process died without a word: Prefect would call them running for ever.

Each flow run that is under way holds a lock on a file of its own, which the system frees when its process dies. That
tells a dead one from a slow one at once. Prefect's own way, an automation on heartbeats, needs minutes of silence, and
crashes a healthy run that is busy for as long.
"""

import contextlib
import datetime
import json
import sqlite3
import sys
from collections.abc import Generator
from pathlib import Path
from uuid import UUID

from torchmill.components.files import locked
from torchmill.components.processes import run_python
from torchmill.components.runs.folders import Runs

FLOWS = ("train", "reproduce")
JUST_BEGUN = datetime.timedelta(minutes=1)
DIED = "Its process died without a word: killed, or the machine went down."


@contextlib.contextmanager
def under_watch(runs: Runs, flow_run: str, api: str) -> Generator[None]:
    """Let others see by a lock that the process of a flow run lives.

    Args:
        api: of the Prefect server that keeps it; empty for the one of the runs' folder.
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
    """The files of flow runs whose process is gone.

    Args:
        own: only of those that the folder's own server keeps.
    """
    found = []
    for path in sorted((runs.work / "flows").glob("*")):
        with locked(path, wait=False) as free:
            if free and not (own and _api(path)):
                found.append(path)
    return found


def close(runs: Runs, own_api: str) -> list[str]:
    """Mark the dead as crashed in Prefect; gives what was done. Those of a server that doesn't answer are left.

    Args:
        own_api: of the server that keeps the history of this folder; empty to leave that alone.
    """
    from prefect.settings import PREFECT_API_URL, temporary_settings

    from torchmill.flows.services.processes import answers

    told = []
    for path in dead(runs):
        api = _api(path) or own_api
        if not api or not answers(f"{api}/health", anything=True):
            continue
        with temporary_settings({PREFECT_API_URL: api}):
            name = crash(path.name, DIED)
        if name:
            told.append(f"flow run {name} in Prefect: crashed")
        path.unlink(missing_ok=True)
    return told


def close_elsewhere(runs: Runs, own_api: str) -> None:
    """Do so in a process of its own: Prefect's client takes seconds to import, and a server may be away."""
    with (runs.work / "prefect.log").open("ab") as log:
        run_python("-m", "torchmill.flows.services.crashed_runs", str(runs.folder), own_api, stdout=log, stderr=log)


def _api(path: Path) -> str:
    try:
        return json.loads(path.read_bytes())["api"]
    except (OSError, ValueError):  # gone meanwhile: it ended in order; or killed before it was written
        return ""


def says_that_some_run(runs: Runs) -> bool:
    """Tell whether the folder's own Prefect database calls any flow run running: a look into the file spares a server.

    Where the file has another form than we know, the answer is yes: then the server is asked.
    """
    database = runs.prefect / "prefect.db"
    if not database.exists():
        return False
    count = "SELECT count(*) FROM flow_run WHERE state_type IN ('RUNNING', 'PENDING', 'CANCELLING')"
    try:
        with contextlib.closing(sqlite3.connect(database, timeout=60)) as connection:
            return connection.execute(count).fetchone()[0] > 0
    except sqlite3.Error:
        return True


def close_unwatched(runs: Runs, dry_run: bool) -> list[str]:
    """Crash flow runs of ours that say they run and that nobody has a lock for; on the folder's own server.

    They were killed in the instant between their creation and the lock, or ran before there were locks. What waits
    for the runner of `torchmill up`, or is a minute old, is left alone.
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

    told = []
    begun = FlowRunFilterStateType(any_=[StateType.RUNNING, StateType.PENDING, StateType.CANCELLING])
    with get_client(sync_client=True) as client:
        found = client.read_flow_runs(
            flow_filter=FlowFilter(name=FlowFilterName(any_=list(FLOWS))),
            flow_run_filter=FlowRunFilter(state=FlowRunFilterState(type=begun)),
        )
    old = datetime.datetime.now(datetime.UTC) - JUST_BEGUN
    for flow_run in found:
        watched = (runs.work / "flows" / str(flow_run.id)).exists()
        if watched or flow_run.deployment_id or not flow_run.state or flow_run.state.timestamp > old:
            continue
        if not dry_run:
            crash(str(flow_run.id), DIED)
        told.append(f"flow run {flow_run.name} in Prefect: {'to be crashed' if dry_run else 'crashed'}")
    return told


def crash(flow_run: str, message: str) -> str:
    """Mark a flow run and its tasks as crashed where they say that they run; gives the name of one that did."""
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId
    from prefect.exceptions import ObjectNotFound
    from prefect.states import Crashed

    state = Crashed(message=message)
    with get_client(sync_client=True) as client:
        try:
            found = client.read_flow_run(UUID(flow_run))
        except ObjectNotFound:
            return ""
        for task_run in client.read_task_runs(flow_run_filter=FlowRunFilter(id=FlowRunFilterId(any_=[found.id]))):
            if task_run.state is None or not task_run.state.is_final():
                client.set_task_run_state(task_run.id, state, force=True)
        if found.state is not None and found.state.is_final():
            return ""
        client.set_flow_run_state(found.id, state, force=True)
        return found.name


if __name__ == "__main__":
    close(Runs(Path(sys.argv[1])), sys.argv[2])
