"""`torchmill up`: the MLflow UI, the Prefect UI and the runner of schedules, together and until Ctrl-C."""

import contextlib
import json
import os
import signal
import subprocess
import time
from collections.abc import Collection, Generator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from torchmill.components import tracking
from torchmill.components.errors import UserError
from torchmill.components.files import locked, read_state, write_text
from torchmill.components.processes import python_command
from torchmill.components.runs.folders import Runs
from torchmill.flows.services import crashed_runs as interrupted
from torchmill.flows.services.prefect_server import configured_api, configured_ui, server_command, server_environment
from torchmill.flows.services.prewarm.server import Standby
from torchmill.flows.services.processes import answers, dies_with_parent, end, free_port, last_line

HEALTHY_SECONDS = 120.0
POOL = "torchmill"


@dataclass
class Service:
    """A server that `up` started."""

    name: str
    address: str
    health: str
    log: Path
    process: subprocess.Popen[bytes]

    @classmethod
    def start(
        cls,
        name: str,
        address: str,
        health: str,
        log: Path,
        command: list[str],
        environment: dict[str, str],
        folder: Path | None,
    ) -> "Service":
        with log.open("ab") as file:
            process = subprocess.Popen(
                command,
                env=environment | {"PYTHONSAFEPATH": "1"},  # for what they start
                cwd=folder,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=file,
                start_new_session=True,  # Ctrl-C is ours; we end them in order
                preexec_fn=dies_with_parent,
            )
        return cls(name, address, health, log, process)

    def wait_until_healthy(self) -> None:
        deadline = time.monotonic() + HEALTHY_SECONDS
        while not answers(self.address + self.health):
            self.check()
            if time.monotonic() > deadline:
                raise UserError(f"{self.name} did not answer within {HEALTHY_SECONDS:.0f} s.", f"See {self.log}.")
            time.sleep(0.1)

    def check(self) -> None:
        if self.process.poll() is not None:
            code = self.process.returncode
            raise UserError(f"{self.name} ended with exit code {code}: {last_line(self.log)}", f"See {self.log}.")

    def end(self) -> None:
        end(self.process)
        with contextlib.suppress(ProcessLookupError):  # children of its own that it left behind
            os.killpg(self.process.pid, signal.SIGKILL)


def up(runs: Runs, mlflow_port: int | None, prefect_port: int | None, standby: bool = True) -> int:
    """Run the services of a folder until Ctrl-C or SIGTERM; gives the exit code.

    Servers that the environment names (MLFLOW_TRACKING_URI, PREFECT_API_URL) are used instead of our own.

    Args:
        standby: have a process at hand that has imported everything, so that commands start at once.
    """
    state, environment = runs.work / "up.json", dict(os.environ)  # before MLflow's is set, for a command has not
    with locked(runs.work / "up.lock", wait=False) as alone:
        if not alone:
            known = read_state(state)
            print(f"torchmill is up already (process {known.get('pid', 'unknown')}):")
            _show(known)
            return 0
        for ending in (signal.SIGTERM, signal.SIGINT):  # SIGINT, too: a shell has its background jobs ignore it
            signal.signal(ending, _interrupt)
        theirs = _of_the_user()
        known = _addresses(runs, mlflow_port, prefect_port) | theirs
        with _running(runs, known, theirs) as services:
            ahead = Standby.start(runs, environment) if standby and Standby.is_possible() else None
            known |= {"standby": str(ahead.address)} if ahead else {}
            write_text(state, json.dumps(known | {"pid": str(os.getpid())}))
            _show(known)
            print("Ctrl-C ends all of them.", flush=True)
            try:
                while True:
                    time.sleep(0.5)
                    for service in services:
                        service.check()
                    if ahead:
                        ahead.keep()
                    if interrupted.dead(runs, own=True):
                        interrupted.close_elsewhere(runs, known["prefect_api"])
            except KeyboardInterrupt:
                print("\nEnding …", flush=True)
            finally:
                if ahead:
                    ahead.end()
        return 0


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def _show(known: dict[str, str]) -> None:
    print(f"MLflow   {known.get('mlflow', '?')}   runs, metrics, artifacts, models")
    print(f"Prefect  {known.get('prefect', '?')}   flow runs, schedules")
    print(f"Runner   {known.get('runner', '?')}/health   starts what is scheduled", flush=True)


def _addresses(runs: Runs, mlflow_port: int | None, prefect_port: int | None) -> dict[str, str]:
    """Where each service will be; our own keep the ports they had, so that links in runs go on being true."""
    remembered = read_state(runs.work / "ports.json")
    ports = {
        "mlflow": _port("MLflow", "--mlflow-port", mlflow_port, remembered.get("mlflow", 5000)),
        "prefect": _port("Prefect", "--prefect-port", prefect_port, remembered.get("prefect", 4200)),
        "runner": free_port(),
    }
    write_text(runs.work / "ports.json", json.dumps(ports))
    known = {name: f"http://127.0.0.1:{port}" for name, port in ports.items()}
    return known | {"prefect_api": f"{known['prefect']}/api"}


def _of_the_user() -> dict[str, str]:
    """The servers that the environment names."""
    known = {}
    if os.environ.get("MLFLOW_TRACKING_URI"):
        known["mlflow"] = os.environ["MLFLOW_TRACKING_URI"]
    api = configured_api()
    if api and answers(f"{api}/health", anything=True):
        known |= {"prefect": configured_ui(), "prefect_api": api}
    return known


@contextlib.contextmanager
def _running(runs: Runs, known: dict[str, str], theirs: Collection[str]) -> Generator[list[Service]]:
    """Start the services that are not ``theirs``, wait until each is healthy, and end them afterwards."""
    services: list[Service] = []

    def start(
        name: str, health: str, command: list[str], environment: dict[str, str], folder: Path | None = None
    ) -> None:
        log = runs.work / f"{name}.log"
        services.append(Service.start(name, known[name], health, log, command, environment, folder))

    try:
        if "mlflow" not in theirs:
            tracking.create_database(runs)
        print("Starting …", flush=True)
        if "prefect" not in theirs:
            port = _port_of(known["prefect"])
            start("prefect", "/api/health", server_command(port), server_environment(runs, port, ui=True))
        if "mlflow" not in theirs:
            command = tracking.ui_command(runs, _port_of(known["mlflow"]))
            # It starts uvicorn, which imports from the folder that it is started in: here are no modules.
            start("mlflow", "/health", command, tracking.ui_environment(), runs.folder)
        for service in services:
            service.wait_until_healthy()
        with _client_of(known["prefect_api"]) as schedule:
            schedule.create_pool()
            if "prefect" not in theirs:  # on a team's server others may serve the same pool
                schedule.close_interrupted()  # of an `up` that was killed
                schedule.skip_missed()
        start("runner", "/health", _runner_command(), _runner_environment(runs, known, "prefect" not in theirs))
        services[-1].wait_until_healthy()
        yield services
    finally:
        for ending in (signal.SIGTERM, signal.SIGINT):  # a second Ctrl-C must not leave one of them behind
            signal.signal(ending, signal.SIG_IGN)
        for service in reversed(services):  # the runner first: what it leaves is to be told to the Prefect server
            service.end()
            if service.name == "runner" and "prefect" not in theirs and answers(f"{known['prefect_api']}/health"):
                with _client_of(known["prefect_api"]) as schedule:
                    schedule.close_interrupted()


def _port_of(address: str) -> int:
    return int(address.rpartition(":")[2])


def _port(service: str, option: str, chosen: int | None, usual: int) -> int:
    if chosen is None:
        return free_port(usual)
    if free_port(chosen) != chosen:
        raise UserError(f"Port {chosen} for {service} is in use.", f"Choose another with {option}, or leave it out.")
    return chosen


def _runner_command() -> list[str]:
    worker = ["worker", "start", "--pool", POOL, "--type", "process", "--name", "torchmill-up", "--with-healthcheck"]
    # One at a time: a training takes the whole machine.
    return python_command("-m", "prefect", "--no-prompt", *worker, "--limit", "1")


def _runner_environment(runs: Runs, known: dict[str, str], our_prefect: bool) -> dict[str, str]:
    settings = {
        "PREFECT_API_URL": known["prefect_api"],
        "PREFECT_WORKER_WEBSERVER_HOST": "127.0.0.1",
        "PREFECT_WORKER_WEBSERVER_PORT": str(_port_of(known["runner"])),
        "PREFECT_WORKER_QUERY_SECONDS": "5",
        "TORCHMILL_RUNS": str(runs.folder),
        "DO_NOT_TRACK": "1",
    }
    if our_prefect:  # for a server of the user's own, its key is in the user's own profile
        settings["PREFECT_HOME"] = str(runs.prefect)
    return os.environ | settings


@contextlib.contextmanager
def _client_of(api: str) -> Generator[ModuleType]:
    """Give the module of schedules, talking to a Prefect server."""
    from prefect.settings import PREFECT_API_URL, temporary_settings

    from torchmill.flows.services import schedule

    with temporary_settings({PREFECT_API_URL: api}):
        yield schedule
