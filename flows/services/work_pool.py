"""The work pool of ``torchmill up`` in Prefect: its deployments and its scheduled runs."""

import contextlib
import datetime

from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import DeploymentUpdate, WorkPoolCreate
from prefect.client.schemas.filters import (
    FlowRunFilter,
    FlowRunFilterNextScheduledStartTime,
    FlowRunFilterState,
    FlowRunFilterStateType,
    WorkPoolFilter,
    WorkPoolFilterName,
)
from prefect.client.schemas.objects import FlowRun, StateType
from prefect.client.schemas.responses import DeploymentResponse
from prefect.exceptions import ObjectAlreadyExists
from prefect.states import Cancelled
from prefect.workers.process import ProcessWorker

from torchmill.flows.services.crashed_runs import Note, conclude

POOL = "torchmill"
MISSED = datetime.timedelta(minutes=1)
"""Delay after which a scheduled run that nobody has started counts as missed."""
FORMER_PACKAGE = "flows."
"""Start of the entrypoints that earlier versions wrote: ``flows.train.train``."""
PAGE = 200
"""Deployments that Prefect's API returns at once, at most."""


def create_pool() -> None:
    """Create the work pool if there is none."""
    with get_client(sync_client=True) as client:
        template = ProcessWorker.get_default_base_job_template()
        with contextlib.suppress(ObjectAlreadyExists):
            client.create_work_pool(WorkPoolCreate(name=POOL, type="process", base_job_template=template))


def all_deployments(client: SyncPrefectClient) -> list[DeploymentResponse]:
    """Return the deployments on the server, also if they are more than a page."""
    deployments: list[DeploymentResponse] = []
    while len(page := client.read_deployments(limit=PAGE, offset=len(deployments))) == PAGE:
        deployments += page
    return deployments + page


def update_entrypoints() -> list[str]:
    """Point deployments of earlier versions to where the flows are now, and return their names.

    A deployment stores the module of its flow. Earlier versions wrote ``flows.train``, which the runner doesn't find:
    it is ``torchmill.flows.train`` now.
    """
    names = []
    with get_client(sync_client=True) as client:
        for deployment in all_deployments(client):
            entrypoint = deployment.entrypoint or ""
            if deployment.work_pool_name == POOL and entrypoint.startswith(FORMER_PACKAGE):
                client.update_deployment(deployment.id, DeploymentUpdate(entrypoint=f"torchmill.{entrypoint}"))
                names.append(deployment.name)
    return sorted(names)


def skip_missed() -> None:
    """Cancel runs whose time has passed: a week's missed nights must not all start at once."""
    now = datetime.datetime.now(datetime.UTC)
    missed = FlowRunFilterNextScheduledStartTime(before_=now - MISSED)
    with get_client(sync_client=True) as client:
        for flow_run in _runs_of_pool(client, [StateType.SCHEDULED], missed):
            if flow_run.auto_scheduled:
                state = Cancelled(message="Missed: torchmill up was not running.")
                client.set_flow_run_state(flow_run.id, state, force=True)


def close_interrupted() -> None:
    """Mark the runs as crashed that the runner left behind: they would be running for ever."""
    with get_client(sync_client=True) as client:
        flow_runs = _runs_of_pool(client, [StateType.RUNNING, StateType.PENDING, StateType.CANCELLING])
    for flow_run in flow_runs:
        conclude(str(flow_run.id), Note(), "The runner ended while it ran.")


def _runs_of_pool(
    client: SyncPrefectClient, states: list[StateType], start: FlowRunFilterNextScheduledStartTime | None = None
) -> list[FlowRun]:
    state = FlowRunFilterState(type=FlowRunFilterStateType(any_=states))
    return client.read_flow_runs(
        flow_run_filter=FlowRunFilter(state=state, next_scheduled_start_time=start),
        work_pool_filter=WorkPoolFilter(name=WorkPoolFilterName(any_=[POOL])),
    )
