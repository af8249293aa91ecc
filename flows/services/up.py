"""`torchmill up`: the MLflow UI, the Prefect UI and the runner of schedules, together and until Ctrl-C."""

import contextlib
import json
import os
import signal
import tempfile
import time
from collections.abc import Collection, Generator
from pathlib import Path

from torchmill.components import tracking
from torchmill.components.errors import UserError
from torchmill.components.files import locked, write_text
from torchmill.components.local_access.key import credentials, signed_in
from torchmill.components.processes import python_command
from torchmill.components.runs.folders import Runs
from torchmill.components.state_files import read_json
from torchmill.components.wording import count, without_passwords
from torchmill.flows.services import crashed_runs, up_state
from torchmill.flows.services.prefect_client import connected
from torchmill.flows.services.prefect_server import (
    configured_api,
    configured_ui,
    prepare_database,
    server_command,
    server_environment,
    users_lock,
)
from torchmill.flows.services.prewarm.process import PrewarmedProcess
from torchmill.flows.services.processes import answers, free_port
from torchmill.flows.services.service import Service

SERVICES = ("mlflow", "prefect", "prefect_api", "runner")

Addresses = dict[str, str]
"""Addresses by service."""


def up(runs: Runs, mlflow_port: int | None, prefect_port: int | None, prewarm: bool = True) -> int:
    """Run the services of a folder until Ctrl-C or SIGTERM, and return the exit code.

    Servers that the environment names (MLFLOW_TRACKING_URI, PREFECT_API_URL) are used instead of our own.

    Args:
        prewarm: keep a process with everything imported, so that commands start at once.
    """
    environment = dict(os.environ)  # as commands have it: without the variables that MLflow's servers need
    with locked(up_state.lock_file(runs), wait=False) as is_free:
        if not is_free:
            state = up_state.read_up_state(runs)
            print(f"torchmill is up already (process {state.pid}):")
            _show(runs, {name: getattr(state, name) for name in SERVICES}, state.theirs)
            return 0
        for ending in (signal.SIGTERM, signal.SIGINT):  # a shell has its background jobs ignore SIGINT
            signal.signal(ending, _interrupt)
        theirs = _servers_of_the_user()
        with (
            contextlib.ExitStack() as reserved,
            _running(
                runs, addresses := _addresses(runs, mlflow_port, prefect_port, reserved) | theirs, theirs
            ) as services,
            _prewarmed(runs, environment, prewarm) as prewarmed,
        ):
            try:
                socket = {"prewarm": str(prewarmed.address)} if prewarmed else {}
                state = {**addresses, **socket, "pid": str(os.getpid()), "theirs": list(theirs)}
                write_text(up_state.state_file(runs), without_passwords(json.dumps(state)))
                _show(runs, addresses, theirs)
                print("Ctrl-C ends all of them.", flush=True)
                _watch(runs, "" if "prefect" in theirs else addresses["prefect_api"], services, prewarmed)
            except KeyboardInterrupt:
                print("\nEnding …", flush=True)
                with locked(users_lock(runs), wait=False) as is_unused:
                    if not is_unused and "prefect" not in theirs:
                        print("Runs are still at work: a Prefect server of their own takes over.", flush=True)
        return 0


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


@contextlib.contextmanager
def _prewarmed(runs: Runs, environment: dict[str, str], is_wanted: bool) -> Generator[PrewarmedProcess | None]:
    if not (is_wanted and PrewarmedProcess.is_possible()):
        yield None
        return
    process = PrewarmedProcess.start(runs, environment)
    try:
        yield process
    finally:
        process.end()


def _watch(runs: Runs, own_api: str, services: list[Service], prewarmed: PrewarmedProcess | None) -> None:
    """Check the services twice a second, and close crashed flow runs.

    Args:
        own_api: address of our own Prefect server; empty if the user's is used.
    """
    while True:
        time.sleep(0.5)
        for service in services:
            service.check()
        if prewarmed:
            prewarmed.keep()
        if own_api and crashed_runs.dead(runs, own=True):
            crashed_runs.close_elsewhere(runs, own_api)


def _show(runs: Runs, addresses: Addresses, theirs: Collection[str]) -> None:
    """Print the addresses; those of our own servers sign a browser in."""
    key = credentials(runs)
    own = {"mlflow", "prefect"}.difference(theirs)
    opened = {
        name: signed_in(address, key) if name in own and address else without_passwords(address)
        for name, address in addresses.items()
    }
    print(f"MLflow   {opened.get('mlflow') or '?'}   runs, metrics, artifacts, models")
    print(f"Prefect  {opened.get('prefect') or '?'}   flow runs, schedules")
    print(f"Runner   {opened.get('runner') or '?'}/health   starts what is scheduled", flush=True)


def _addresses(
    runs: Runs, mlflow_port: int | None, prefect_port: int | None, reserved: contextlib.ExitStack
) -> Addresses:
    """Choose an address for each service: the port from the last time if it is free, so that links in runs hold.

    Args:
        reserved: locks of the ports, which keep another `up` from choosing the same one before a server listens.
    """
    last_ports = read_json(runs.work / "ports.json", up_state.Ports) or {}
    ports = {
        "mlflow": _port("MLflow", "--mlflow-port", mlflow_port, last_ports.get("mlflow", 5000), reserved),
        "prefect": _port("Prefect", "--prefect-port", prefect_port, last_ports.get("prefect", 4200), reserved),
        "runner": free_port(),
    }
    write_text(runs.work / "ports.json", json.dumps(ports))
    addresses = {name: f"http://127.0.0.1:{port}" for name, port in ports.items()}
    return addresses | {"prefect_api": f"{addresses['prefect']}/api"}


def _servers_of_the_user() -> Addresses:
    """Return the addresses of servers that the environment or the Prefect profile names."""
    addresses = {}
    if os.environ.get("MLFLOW_TRACKING_URI"):
        addresses["mlflow"] = os.environ["MLFLOW_TRACKING_URI"]
    api = configured_api()
    if api and answers(f"{api}/health", anything=True):
        addresses |= {"prefect": configured_ui(), "prefect_api": api}
    return addresses


@contextlib.contextmanager
def _running(runs: Runs, addresses: Addresses, theirs: Collection[str]) -> Generator[list[Service]]:
    """Start our own services, wait until they are healthy, and end them behind the block.

    Args:
        theirs: services that the user has, which aren't started.
    """
    services: list[Service] = []

    def start(
        name: str, health: str, command: list[str], environment: dict[str, str], folder: Path | None = None
    ) -> None:
        log = runs.work / f"{name}.log"
        address = addresses[name] if name == "runner" else signed_in(addresses[name], credentials(runs))
        services.append(Service.start(name, address, health, log, command, environment, folder))

    is_our_prefect = "prefect" not in theirs
    try:
        if "mlflow" not in theirs:
            tracking.create_database(runs)
        print("Starting …", flush=True)
        if is_our_prefect:
            port = _port_of(addresses["prefect"])
            prepare_database(runs)
            start("prefect", "/api/version", server_command(port), server_environment(runs, port, ui=True))
        if "mlflow" not in theirs:
            command = tracking.ui_command(runs, _port_of(addresses["mlflow"]))
            # MLflow starts uvicorn, which imports from the current folder: in this one are no modules.
            start("mlflow", "/version", command, tracking.ui_environment(runs), runs.folder)
        for service in services:
            service.wait_until_healthy()
        _prepare_pool(runs, addresses["prefect_api"], is_our_prefect)
        start("runner", "/health", _runner_command(), _runner_environment(runs, addresses, is_our_prefect))
        services[-1].wait_until_healthy()
        yield services
    finally:
        for ending in (signal.SIGTERM, signal.SIGINT):  # a second Ctrl-C must not leave a service running
            signal.signal(ending, signal.SIG_IGN)
        for service in reversed(services):  # the runner first: the Prefect server has to learn of its runs' end
            service.end()
            if service.name == "runner" and is_our_prefect and answers(f"{addresses['prefect_api']}/health"):
                _close_interrupted(runs, addresses["prefect_api"])


def _prepare_pool(runs: Runs, api: str, is_ours: bool) -> None:
    """Make the work pool ready for the runner, with the schedules of earlier versions brought up to date."""
    # Prefect's client takes seconds to import: the servers start meanwhile.
    from torchmill.flows.services import work_pool

    with connected(runs, api, is_ours):
        work_pool.create_pool()
        if names := work_pool.update_entrypoints():
            print(f"Brought {count(len(names), 'schedule')} of an earlier version up to date: {', '.join(names)}")
        if is_ours:  # the runners of others may serve the same pool on a team's server
            work_pool.close_interrupted()  # an earlier `up` may have been killed
            work_pool.skip_missed()


def _close_interrupted(runs: Runs, api: str) -> None:
    from torchmill.flows.services import work_pool

    with connected(runs, api, is_own=True):
        work_pool.close_interrupted()


def _port_of(address: str) -> int:
    return int(address.rpartition(":")[2])


def _port(service: str, option: str, chosen: int | None, usual: int, reserved: contextlib.ExitStack) -> int:
    is_mine = reserved.enter_context(locked(_port_lock(chosen or usual), wait=False))
    if chosen is None:
        return free_port(usual if is_mine else 0)
    if not is_mine or free_port(chosen) != chosen:
        raise UserError(f"Port {chosen} for {service} is in use.", f"Choose another with {option}, or leave it out.")
    return chosen


def _port_lock(port: int) -> Path:
    """Return the file that a user's processes lock for a port, whatever their folders of runs."""
    return Path(tempfile.gettempdir()) / f"torchmill-{os.getuid()}-port-{port}.lock"


def _runner_command() -> list[str]:
    from torchmill.flows.services.work_pool import POOL

    worker = ["worker", "start", "--pool", POOL, "--type", "process", "--name", "torchmill-up", "--with-healthcheck"]
    # One run at a time: a training takes the whole machine.
    return python_command("-m", "prefect", "--no-prompt", *worker, "--limit", "1")


def _runner_environment(runs: Runs, addresses: Addresses, is_our_prefect: bool) -> dict[str, str]:
    settings = {
        "PREFECT_API_URL": addresses["prefect_api"],
        "PREFECT_WORKER_WEBSERVER_HOST": "127.0.0.1",
        "PREFECT_WORKER_WEBSERVER_PORT": str(_port_of(addresses["runner"])),
        "PREFECT_WORKER_QUERY_SECONDS": "5",
        "TORCHMILL_RUNS": str(runs.folder),
        "DO_NOT_TRACK": "1",
    }
    if is_our_prefect:  # the key of a user's server is in the user's own profile
        settings |= {"PREFECT_HOME": str(runs.prefect), "PREFECT_API_AUTH_STRING": credentials(runs)}
    return os.environ | settings
