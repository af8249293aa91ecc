"""`torchmill up`: the MLflow UI, the Prefect UI and the runner of schedules, together and until Ctrl-C."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path

from components import tracking
from components.errors import UserError
from components.files import locked, write_text
from components.places import Runs
from flows.prefect_server import (
    answers,
    dies_with_parent,
    end,
    free_port,
    last_line,
    read_state,
    server_command,
    server_environment,
)

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
        cls, name: str, address: str, health: str, log: Path, command: list[str], environment: dict[str, str]
    ) -> "Service":
        with log.open("ab") as file:
            process = subprocess.Popen(
                command,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=file,
                start_new_session=True,  # Ctrl-C is ours; we end them in order
                preexec_fn=dies_with_parent,
            )
        return cls(name, address, health, log, process)

    def wait_until_healthy(self) -> None:
        deadline = time.monotonic() + HEALTHY_SECONDS
        while not answers(address(self.address) + self.health):
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


def address(text: str) -> str:
    return text.rstrip("/")


def up(runs: Runs, mlflow_port: int | None, prefect_port: int | None, parallel: int = 1) -> int:
    """Run the services of a folder until Ctrl-C or SIGTERM; gives the exit code."""
    state = runs.work / "up.json"
    with locked(runs.work / "up.lock", wait=False) as alone:
        if not alone:
            known = read_state(state)
            print(f"torchmill is up already (process {known.get('pid', 'unknown')}):")
            _show(known)
            return 0
        for ending in (signal.SIGTERM, signal.SIGINT):  # SIGINT, too: a shell has its background jobs ignore it
            signal.signal(ending, _interrupt)
        with _services(runs, mlflow_port, prefect_port, parallel) as services:
            known = {service.name: service.address for service in services.values()}
            known |= {"pid": str(os.getpid()), "prefect_api": services["prefect"].address + "/api"}
            write_text(state, json.dumps(known))
            _show(known)
            print("Ctrl-C ends all of them.", flush=True)
            try:
                while True:
                    time.sleep(0.5)
                    for service in services.values():
                        service.check()
            except KeyboardInterrupt:
                print("\nEnding …", flush=True)
        return 0


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def _show(known: dict[str, str]) -> None:
    print(f"MLflow   {known.get('mlflow', '?')}   runs, metrics, artifacts, models")
    print(f"Prefect  {known.get('prefect', '?')}   flow runs, schedules")
    print(f"Runner   {known.get('runner', '?')}/health   starts what is scheduled", flush=True)


@contextlib.contextmanager
def _services(
    runs: Runs, mlflow_port: int | None, prefect_port: int | None, parallel: int
) -> Generator[dict[str, Service]]:
    tracking.create_database(runs)
    ports = read_state(runs.work / "ports.json")
    ports = {
        "mlflow": _port("MLflow", "--mlflow-port", mlflow_port, ports.get("mlflow", 5000)),
        "prefect": _port("Prefect", "--prefect-port", prefect_port, ports.get("prefect", 4200)),
        "runner": free_port(),
    }
    write_text(runs.work / "ports.json", json.dumps(ports))  # the links in runs go on being true
    at = {name: f"http://127.0.0.1:{port}" for name, port in ports.items()}
    services: dict[str, Service] = {}

    def start(name: str, health: str, command: list[str], environment: dict[str, str]) -> None:
        services[name] = Service.start(name, at[name], health, runs.work / f"{name}.log", command, environment)

    try:
        print("Starting …", flush=True)
        start(
            "prefect",
            "/api/health",
            server_command(ports["prefect"]),
            server_environment(runs, ports["prefect"], ui=True),
        )
        start("mlflow", "/health", tracking.ui_command(runs, ports["mlflow"]), tracking.ui_environment())
        services["prefect"].wait_until_healthy()
        api = at["prefect"] + "/api"
        _prepare_pool(api)
        start("runner", "/health", _runner_command(parallel), _runner_environment(runs, api, ports["runner"]))
        for service in services.values():
            service.wait_until_healthy()
        yield services
    finally:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # a second Ctrl-C must not leave one of them behind
        for name in ("runner", "mlflow", "prefect"):  # the runner still has something to tell the Prefect server
            if name in services:
                services[name].end()


def _port(service: str, option: str, chosen: int | None, usual: int) -> int:
    if chosen is None:
        return free_port(usual)
    if free_port(chosen) != chosen:
        raise UserError(f"Port {chosen} for {service} is in use.", f"Choose another with {option}, or leave it out.")
    return chosen


def _runner_command(parallel: int) -> list[str]:
    worker = ["worker", "start", "--pool", POOL, "--type", "process", "--name", "torchmill-up", "--with-healthcheck"]
    return [sys.executable, "-m", "prefect", "--no-prompt", *worker, "--limit", str(parallel)]


def _runner_environment(runs: Runs, api: str, port: int) -> dict[str, str]:
    return {
        **os.environ,
        "PREFECT_HOME": str(runs.prefect),
        "PREFECT_API_URL": api,
        "PREFECT_WORKER_WEBSERVER_HOST": "127.0.0.1",
        "PREFECT_WORKER_WEBSERVER_PORT": str(port),
        "PREFECT_WORKER_QUERY_SECONDS": "5",
        "TORCHMILL_RUNS": str(runs.folder),
        "DO_NOT_TRACK": "1",
    }


def _prepare_pool(api: str) -> None:
    from prefect.settings import PREFECT_API_URL, temporary_settings

    from flows.schedule import create_pool, skip_missed

    with temporary_settings({PREFECT_API_URL: api}):
        create_pool()
        skip_missed()
