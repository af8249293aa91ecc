"""`torchmill schedule`: deployments of the train and predict flows that start by the clock."""

import asyncio
import contextlib
import datetime
import itertools
import os
import re
import zoneinfo
from collections.abc import Generator, Sequence
from pathlib import Path
from typing import Any

import tzlocal
from prefect import Flow
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.schedules import CronSchedule
from prefect.deployments.runner import EntrypointType, RunnerDeployment
from prefect.exceptions import ObjectNotFound
from pydantic import ValidationError

from torchmill.components.config import RunConfig
from torchmill.components.errors import ConfigError, nearest
from torchmill.components.runs.folders import Runs
from torchmill.components.user_code.reference import source_file
from torchmill.components.wording import count, without_passwords
from torchmill.flows.predict import predict
from torchmill.flows.services import prefect_server, up_state
from torchmill.flows.services.prefect_client import connected
from torchmill.flows.services.work_pool import POOL, all_deployments, create_pool
from torchmill.flows.step import NEEDED_VARIABLES
from torchmill.flows.train import train

FLOWS = ("train", "predict")
INHERITED = ("TORCHMILL_DATA", "TORCHMILL_MIRROR", "MLFLOW_TRACKING_URI")
"""Variables that a scheduled run gets as the command that scheduled it had them."""


def add(runs: Runs, config: RunConfig, cron: str, timezone: str | None) -> int:
    """Schedule a training under the configuration's name, or one made from data and network."""
    parameters = {"config": _portable(config).model_dump(mode="json")}
    description = f"{config.model.name} on {config.data.title}"
    return _add(runs, train, parameters, description, (config.name, config.registered_name), cron, timezone)


def add_prediction(
    runs: Runs, model: str, inputs: Sequence[Path], output: Path, name: str | None, cron: str, timezone: str | None
) -> int:
    """Schedule predictions.

    Args:
        model: an .onnx file or a registered model.
        name: the schedule's name; None makes one from the model's.
    """
    # As in the terminal, paths are relative to the current folder.
    paths = [str(path.expanduser().absolute()) for path in inputs]
    file = Path(model).expanduser()
    model = str(file.absolute()) if file.suffix == ".onnx" else model
    parameters = {"model": model, "inputs": paths, "output": str(output.expanduser().absolute())}
    default = re.sub(r"[^A-Za-z0-9.-]+", "-", f"predict-{Path(model).stem}")
    return _add(runs, predict, parameters, f"{model} on {', '.join(paths)}", (name, default), cron, timezone)


def _add(
    runs: Runs,
    flow: Flow[Any, Any],
    parameters: dict[str, Any],
    description: str,
    names: tuple[str | None, str],
    cron: str,
    timezone: str | None,
) -> int:
    schedule, first = _schedule(cron, timezone or tzlocal.get_localzone_name())
    with _client(runs) as client:
        taken = {deployment.name for deployment in all_deployments(client)}
        name = names[0] or _free_name(names[1], taken)
        create_pool()
        deployment = flow.to_deployment(
            name=name,
            schedules=[schedule],
            parameters=parameters,
            description=description,
            work_pool_name=POOL,
            job_variables={"working_dir": str(Path.cwd()), "env": _environment()},
            entrypoint_type=EntrypointType.MODULE_PATH,
        )
        assert isinstance(deployment, RunnerDeployment)  # a coroutine only inside an event loop
        deployment.apply()
    print(f"{'Replaced' if name in taken else 'Scheduled'}  {flow.name}/{name}  {cron}  {schedule.timezone}")
    print(f"It starts first on {first:%A, %d %B %Y, %H:%M}.")
    if not up_state.is_running(runs):
        print("It starts only while `torchmill up` runs.")
    return 0


def _schedule(cron: str, timezone: str) -> tuple[CronSchedule, datetime.datetime]:
    """Return a schedule, and the first time at which it starts a run.

    Raises:
        ConfigError: the zone is unknown, or the five fields are none or name a day that never comes.
    """
    from prefect.server.schemas.schedules import CronSchedule as ServerSchedule

    if timezone not in zoneinfo.available_timezones():
        raise ConfigError(f"Unknown time zone '{timezone}'.", nearest(timezone, zoneinfo.available_timezones()))
    remedy = 'Write minute hour day month weekday, as "0 3 * * *".'
    fields = len(cron.split())
    if fields != 5 and not cron.startswith("@"):  # Prefect would take a sixth for seconds
        raise ConfigError(f"Cannot schedule '{cron}': it has {count(fields, 'field')}, not five.", remedy)
    try:
        (first,) = asyncio.run(ServerSchedule(cron=cron, timezone=timezone).get_dates(1))
        return CronSchedule(cron=cron, timezone=timezone), first
    except ValidationError as error:
        message = error.errors()[0]["msg"].removeprefix("Value error, ")
        raise ConfigError(f"Cannot schedule '{cron}': {message}.", remedy) from None
    except ValueError:  # 31 February
        raise ConfigError(f"Cannot schedule '{cron}': there is no such day.", remedy) from None


def show(runs: Runs) -> int:
    """Print the schedules with their times."""
    with _client(runs) as client:
        deployments = all_deployments(client)
    if not deployments:
        print('Nothing is scheduled. For example: torchmill schedule --cron "0 3 * * *" --data mnist')
    for deployment in sorted(deployments, key=lambda deployment: deployment.name):
        clocks = [entry.schedule for entry in deployment.schedules if isinstance(entry.schedule, CronSchedule)]
        times = ", ".join(f"{clock.cron} {clock.timezone}" for clock in clocks) or "by hand"
        paused = "  (paused)" if deployment.paused else ""
        print(f"{deployment.name:30}  {times:32}  {deployment.description or ''}{paused}")
    return 0


def remove(runs: Runs, name: str) -> int:
    """Remove a schedule; runs that it has started stay."""
    with _client(runs) as client:
        for flow in FLOWS:
            with contextlib.suppress(ObjectNotFound):
                client.delete_deployment(client.read_deployment_by_name(f"{flow}/{name}").id)
                print(f"Removed  {flow}/{name}")
                return 0
        names = [deployment.name for deployment in all_deployments(client)]
    raise ConfigError(f"Nothing is scheduled as '{name}'.", nearest(name, names))


def _free_name(preferred: str, taken: set[str]) -> str:
    numbered = (f"{preferred}-{number}" for number in itertools.count(2))
    return next(name for name in itertools.chain([preferred], numbered) if name not in taken)


def _portable(config: RunConfig) -> RunConfig:
    """Return the configuration for another folder: a user's file by its full path, and without the run's name."""
    place, _, name = config.model.name.rpartition(":")
    model = config.model
    if place.endswith(".py"):
        model = model.model_copy(update={"name": f"{source_file(place)}:{name}"})
    return config.model_copy(update={"model": model, "name": None})


def _environment() -> dict[str, str]:
    """Return the variables for scheduled runs; of one with a password in it, only the name is kept, as a placeholder.

    The process that starts the run fills it in from its own environment
    (https://docs.prefect.io/v3/deploy/infrastructure-concepts/customize).
    """
    values = {name: os.environ[name] for name in INHERITED if os.environ.get(name)}
    hidden = [name for name, value in values.items() if without_passwords(value) != value]
    for name in hidden:
        print(f"{name} holds a password, which is not kept: set it where `torchmill up` runs.")
    needed = {NEEDED_VARIABLES: " ".join(hidden)} if hidden else {}
    return values | {name: f"{{{{ ${name} }}}}" for name in hidden} | needed


@contextlib.contextmanager
def _client(runs: Runs) -> Generator[SyncPrefectClient]:
    """Provide a client of the Prefect server with the folder's schedules."""
    with prefect_server.at_hand(runs) as server:
        server.wait()
        with connected(runs, server.api, not server.is_configured), get_client(sync_client=True) as client:
            yield client
