"""A Prefect server for every run: one that is up already, or one that lives as long as runs need it.

Prefect's own answer to "no server", an ephemeral one, ends before it has written what it was told: its history
has holes. Ours is an ordinary server on a database below ``mlruns``, shared by all runs that are under way,
and it ends when the last of them is over and all is written. `torchmill up` shows that history.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Generator
from pathlib import Path

from torchmill.components.errors import UserError
from torchmill.components.files import locked, read_state, write_text
from torchmill.components.processes import python_command, start_python
from torchmill.components.runs.folders import Runs
from torchmill.flows.services import crashed_runs as interrupted
from torchmill.flows.services.processes import answers, dies_with_parent, end, free_port, is_running, last_line

START_SECONDS = 120.0

DRAIN_SECONDS = 2.0  # from the last run's end to the server's: it writes events once a second


def server_command(port: int) -> list[str]:
    """Return the command of a Prefect server on a port of this machine."""
    return python_command("-m", "torchmill.flows.services.prefect_app", str(port))


def server_environment(runs: Runs, port: int, ui: bool) -> dict[str, str]:
    """Settings of a server whose database is ``mlruns/prefect/prefect.db``."""
    settings = {
        "PREFECT_HOME": str(runs.prefect),
        "PREFECT_SERVER_API_HOST": "127.0.0.1",
        "PREFECT_SERVER_API_PORT": str(port),  # the UI, too, asks this port
        "PREFECT_SERVER_UI_ENABLED": str(ui).lower(),
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_SERVER_SERVICES_EVENT_PERSISTER_FLUSH_INTERVAL": "1",
        "PREFECT_LOGGING_LEVEL": "WARNING",
        "DO_NOT_TRACK": "1",
    }
    if not ui:  # only runs that are started by hand: nothing to schedule, trigger or clean up
        for service in ("SCHEDULER", "LATE_RUNS", "TRIGGERS", "PAUSE_EXPIRATIONS", "CANCELLATION_CLEANUP", "FOREMAN"):
            settings[f"PREFECT_SERVER_SERVICES_{service}_ENABLED"] = "false"
    ours = {"PREFECT_API_URL", "PREFECT_PROFILE", "PREFECT_API_DATABASE_CONNECTION_URL"}
    # A server with a database of its own choice (PostgreSQL for a team) is set by PREFECT_SERVER_DATABASE_….
    return {key: value for key, value in os.environ.items() if key not in ours} | settings


class ServerAtHand:
    """The Prefect server that this process talks to. Entered early, it starts while other things are imported."""

    def __init__(self, runs: Runs):
        self.runs = runs
        self.api = ""
        self.is_shared = self.is_configured = False
        self._exits = contextlib.ExitStack()

    def __enter__(self) -> "ServerAtHand":
        self.api = self._configured() or self._of_up() or self._shared()
        return self

    def __exit__(self, *error: object) -> None:
        self._exits.close()

    def _configured(self) -> str:
        """The server that the user's environment or Prefect profile names, if it answers."""
        api = configured_api()
        if api and not answers(f"{api}/health", seconds=10, anything=True):
            print(
                f"torchmill: the Prefect server at {api} does not answer; this run is kept in {self.runs.prefect}.",
                file=sys.stderr,
            )
            return ""
        self.is_configured = bool(api)
        return api

    def _of_up(self) -> str:
        """The server of a running `torchmill up`."""
        api = read_state(self.runs.work / "up.json").get("prefect_api", "")
        return api if api and up_is_running(self.runs) and answers(f"{api}/health") else ""

    def _shared(self) -> str:
        """The server that runs share while there are any; started by the first."""
        self.is_shared = True
        # Held until this process ends, also by kill -9: the server's watcher goes by it.
        self._exits.enter_context(locked(self.runs.work / "prefect-users.lock", shared=True))
        state = self.runs.work / "prefect.json"
        with locked(self.runs.work / "prefect-start.lock"):
            known = read_state(state)
            if known and is_running(known["pid"]):
                return known["api"]
            api = f"http://127.0.0.1:{free_port()}/api"
            log = (self.runs.work / "prefect.log").open("ab")
            watcher = start_python(
                *("-m", "torchmill.flows.services.prefect_server", str(self.runs.folder), api),
                stdout=log,
                stderr=log,
                start_new_session=True,  # it outlives Ctrl-C here: other runs may use it
            )
            log.close()
            write_text(state, json.dumps({"api": api, "pid": watcher.pid}))
            return api

    def wait(self) -> None:
        """Wait until the server answers.

        Raises:
            UserError: it doesn't.
        """
        deadline = time.monotonic() + START_SECONDS
        while not answers(f"{self.api}/health"):
            known = read_state(self.runs.work / "prefect.json")
            if time.monotonic() > deadline or (known.get("api") == self.api and not is_running(known["pid"])):
                log = self.runs.work / "prefect.log"
                raise UserError(
                    f"The Prefect server that keeps this run's history did not start: {last_line(log)}", f"See {log}."
                )
            time.sleep(0.05)


def configured_api() -> str:
    """The server that the user's environment or Prefect profile names."""
    from prefect.settings import get_current_settings

    return get_current_settings().api.url or ""


_at_hand: ServerAtHand | None = None


@contextlib.contextmanager
def at_hand(runs: Runs) -> Generator[ServerAtHand]:
    """See to a Prefect server for the runs inside; the one around it is used where there is one."""
    global _at_hand
    if _at_hand is not None:
        yield _at_hand
        return
    with ServerAtHand(runs) as server:
        _at_hand = server
        try:
            yield server
        finally:
            _at_hand = None


def keeps_its_own_history(runs: Runs) -> bool:
    """Tell whether this process' flow runs are kept in the folder's own database: not on a server of the user's."""
    # The runner of `torchmill up` has that for a home.
    return os.environ.get("PREFECT_HOME") == str(runs.prefect) or (_at_hand is not None and not _at_hand.is_configured)


def up_is_running(runs: Runs) -> bool:
    """Tell whether a `torchmill up` of this folder runs: it holds a lock as long as it lives."""
    with locked(runs.work / "up.lock", wait=False) as free:
        return not free


def ui_address(runs: Runs, service: str) -> str:
    """Where the Prefect or MLflow UI of this folder is, or will be once `torchmill up` runs."""
    default = {"prefect": "http://127.0.0.1:4200", "mlflow": "http://127.0.0.1:5000"}
    return read_state(runs.work / "up.json").get(service) or default[service]


def prefect_ui(runs: Runs) -> str:
    """Where the runs of this process are seen: the UI of the server they talk to, or the one of `torchmill up`."""
    if _at_hand is not None and _at_hand.is_shared:  # it has no UI, but `torchmill up` shows the same history
        return ui_address(runs, "prefect")
    return (configured_ui() or ui_address(runs, "prefect")).rstrip("/")


def configured_ui() -> str:
    """The UI of the server that the environment or the Prefect profile names."""
    from prefect.settings import get_current_settings

    settings = get_current_settings()
    return settings.ui_url or (settings.api.url or "").rstrip("/").removesuffix("/api")


def watch(runs: Runs, api: str) -> None:
    """Be the shared server's watcher: run it until no run uses it any more, then end it."""
    port = int(api.split(":")[2].split("/")[0])
    server = subprocess.Popen(
        server_command(port), env=server_environment(runs, port, ui=False), preexec_fn=dies_with_parent
    )
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    try:
        users = runs.work / "prefect-users.lock"
        while server.poll() is None:
            time.sleep(0.5)
            if interrupted.dead(runs, own=True):
                interrupted.close_elsewhere(runs, api)
            with locked(users, wait=False) as alone:
                pass
            if not alone:
                continue
            time.sleep(DRAIN_SECONDS)
            if interrupted.dead(runs, own=True):
                continue
            # Held to the end, so that a run that begins now waits and then starts a server of its own.
            with locked(users, wait=False) as alone:
                if alone:
                    (runs.work / "prefect.json").unlink(missing_ok=True)
                    end(server)
    finally:
        end(server)


if __name__ == "__main__":
    watch(Runs(Path(sys.argv[1])), sys.argv[2])
