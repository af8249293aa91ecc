"""`torchmill schedule`: deployments of the train and predict flows that start by the clock."""

import contextlib
import datetime
import itertools
import os
import re
from collections.abc import Generator, Sequence
from pathlib import Path
from typing import Any

import tzlocal
from prefect import Flow
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.client.schemas.filters import (
    FlowRunFilter,
    FlowRunFilterNextScheduledStartTime,
    FlowRunFilterState,
    FlowRunFilterStateType,
    WorkPoolFilter,
    WorkPoolFilterName,
)
from prefect.client.schemas.objects import StateType
from prefect.client.schemas.schedules import CronSchedule
from prefect.deployments.runner import EntrypointType, RunnerDeployment
from prefect.exceptions import ObjectAlreadyExists, ObjectNotFound
from prefect.settings import PREFECT_API_URL, temporary_settings
from prefect.states import Cancelled
from prefect.workers.process import ProcessWorker
from pydantic import ValidationError

from torchmill.components.config import RunConfig
from torchmill.components.errors import ConfigError, nearest
from torchmill.components.runs.folders import Runs
from torchmill.components.user_code.reference import source_file
from torchmill.flows.predict import predict
from torchmill.flows.services import prefect_server
from torchmill.flows.services.crashed_runs import crash
from torchmill.flows.services.up import POOL
from torchmill.flows.train import train

FLOWS = ("train", "predict")
MISSED = datetime.timedelta(minutes=1)


def add(runs: Runs, config: RunConfig, cron: str, timezone: str | None) -> int:
    """Schedule a train; its name is the configuration's, or made from data and network."""
    parameters = {"config": _portable(config).model_dump(mode="json")}
    described = f"{config.model.name} on {config.data.title}"
    return _add(runs, train, parameters, described, (config.name, config.registered_name), cron, timezone)


def add_prediction(
    runs: Runs, model: str, inputs: Sequence[Path], output: Path, name: str | None, cron: str, timezone: str | None
) -> int:
    """Schedule predictions; the name is the one that is given, or made from the model."""
    # As in the terminal, paths are from the folder that the command is given in.
    places = [str(place.expanduser().absolute()) for place in inputs]
    file = Path(model).expanduser()
    model = str(file.absolute()) if file.suffix == ".onnx" else model
    parameters = {"model": model, "inputs": places, "output": str(output.expanduser().absolute())}
    usual = re.sub(r"[^A-Za-z0-9.-]+", "-", f"predict-{Path(model).stem}")
    return _add(runs, predict, parameters, f"{model} on {', '.join(places)}", (name, usual), cron, timezone)


def _add(
    runs: Runs,
    flow: Flow[Any, Any],
    parameters: dict[str, Any],
    described: str,
    names: tuple[str | None, str],
    cron: str,
    timezone: str | None,
) -> int:
    try:
        schedule = CronSchedule(cron=cron, timezone=timezone or tzlocal.get_localzone_name())
    except ValidationError as error:
        message = error.errors()[0]["msg"].removeprefix("Value error, ")
        raise ConfigError(
            f"Cannot schedule '{cron}': {message}.", 'Write minute hour day month weekday, as "0 3 * * *".'
        ) from None
    with _client(runs) as client:
        taken = {deployment.name for deployment in client.read_deployments()}
        name = names[0] or _free_name(names[1], taken)
        create_pool()
        deployment = flow.to_deployment(
            name=name,
            schedules=[schedule],
            parameters=parameters,
            description=described,
            work_pool_name=POOL,
            job_variables={"working_dir": str(Path.cwd()), "env": _environment()},
            entrypoint_type=EntrypointType.MODULE_PATH,
        )
        assert isinstance(deployment, RunnerDeployment)  # a coroutine only inside of an event loop
        deployment.apply()
    print(f"{'Replaced' if name in taken else 'Scheduled'}  {flow.name}/{name}  {cron}  {schedule.timezone}")
    if not prefect_server.up_is_running(runs):
        print("It starts by itself while `torchmill up` runs.")
    return 0


def show(runs: Runs) -> int:
    """List the schedules with their next start."""
    with _client(runs) as client:
        deployments = client.read_deployments()
        if not deployments:
            print('Nothing is scheduled. As in: torchmill schedule --cron "0 3 * * *" --data mnist')
        for deployment in sorted(deployments, key=lambda one: one.name):
            clocks = [one.schedule for one in deployment.schedules if isinstance(one.schedule, CronSchedule)]
            times = ", ".join(f"{clock.cron} {clock.timezone}" for clock in clocks) or "by hand"
            paused = "  (paused)" if deployment.paused else ""
            print(f"{deployment.name:30}  {times:32}  {deployment.description or ''}{paused}")
    return 0


def remove(runs: Runs, name: str) -> int:
    """Remove a schedule; runs that it started stay."""
    with _client(runs) as client:
        for flow in FLOWS:
            with contextlib.suppress(ObjectNotFound):
                client.delete_deployment(client.read_deployment_by_name(f"{flow}/{name}").id)
                print(f"Removed  {flow}/{name}")
                return 0
        known = [one.name for one in client.read_deployments()]
    raise ConfigError(f"Nothing is scheduled as '{name}'.", nearest(name, known))


def create_pool() -> None:
    """Create the work pool that `torchmill up` serves, where there is none."""
    with get_client(sync_client=True) as client:
        template = ProcessWorker.get_default_base_job_template()
        # Somebody else may have been quicker.
        with contextlib.suppress(ObjectAlreadyExists):
            client.create_work_pool(WorkPoolCreate(name=POOL, type="process", base_job_template=template))


def skip_missed() -> None:
    """Cancel what was to start while nobody ran it: a week's missed nights must not all start at once."""
    now = datetime.datetime.now(datetime.UTC)
    with get_client(sync_client=True) as client:
        waiting = client.read_flow_runs(
            flow_run_filter=FlowRunFilter(
                state=FlowRunFilterState(type=FlowRunFilterStateType(any_=[StateType.SCHEDULED])),
                next_scheduled_start_time=FlowRunFilterNextScheduledStartTime(before_=now - MISSED),
            ),
            work_pool_filter=WorkPoolFilter(name=WorkPoolFilterName(any_=[POOL])),
        )
        for flow_run in waiting:
            if flow_run.auto_scheduled:
                client.set_flow_run_state(
                    flow_run.id, Cancelled(message="Missed: torchmill up was not running."), force=True
                )


def close_interrupted() -> None:
    """Mark as crashed what the runner had begun when it ended: nobody else would, and it would run for ever."""
    begun = [StateType.RUNNING, StateType.PENDING, StateType.CANCELLING]
    with get_client(sync_client=True) as client:
        flow_runs = client.read_flow_runs(
            flow_run_filter=FlowRunFilter(state=FlowRunFilterState(type=FlowRunFilterStateType(any_=begun))),
            work_pool_filter=WorkPoolFilter(name=WorkPoolFilterName(any_=[POOL])),
        )
    for flow_run in flow_runs:
        crash(str(flow_run.id), "The runner ended while it ran.")


def _free_name(wanted: str, taken: set[str]) -> str:
    numbered = (f"{wanted}-{number}" for number in itertools.count(2))
    return next(name for name in itertools.chain([wanted], numbered) if name not in taken)


def _portable(config: RunConfig) -> RunConfig:
    """The configuration as it is to be run elsewhere: a user's file by its full path, and without a name of its own."""
    place, _, name = config.model.name.rpartition(":")
    model = config.model
    if place.endswith(".py"):
        model = model.model_copy(update={"name": f"{source_file(place)}:{name}"})
    return config.model_copy(update={"model": model, "name": None})


def _environment() -> dict[str, str]:
    """What the run finds in its environment as this command did."""
    kept = ("TORCHMILL_DATA", "TORCHMILL_MIRROR", "MLFLOW_TRACKING_URI")
    return {name: os.environ[name] for name in kept if os.environ.get(name)}


@contextlib.contextmanager
def _client(runs: Runs) -> Generator[SyncPrefectClient]:
    """A client of the Prefect server that keeps the schedules of a folder."""
    with prefect_server.at_hand(runs) as server:
        server.wait()
        with temporary_settings({PREFECT_API_URL: server.api}), get_client(sync_client=True) as client:
            yield client
