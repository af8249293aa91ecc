"""A Prefect server for every run: one that runs already, or one that ends with the last run that uses it.

Prefect's ephemeral server ends before it has written all records: its history has holes. Ours is an ordinary server on
a database below ``mlruns``. Concurrent runs share it, and `torchmill up` shows its history.
"""

import contextlib
import json
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.parse
from collections.abc import Generator
from pathlib import Path

from torchmill.components.errors import UserError
from torchmill.components.files import append_to, lock_for_child, locked, write_text
from torchmill.components.local_access.guard import CREDENTIALS
from torchmill.components.local_access.key import credentials
from torchmill.components.processes import python_command, start_python
from torchmill.components.runs.folders import Runs, sqlite_uri
from torchmill.components.state_files import read_json
from torchmill.components.wording import without_passwords
from torchmill.flows.services import crashed_runs, up_state
from torchmill.flows.services.processes import answers, dies_with_parent, end, free_port, last_line
from torchmill.flows.services.up_state import ui_address

logger = logging.getLogger("torchmill")

START_SECONDS = 120.0
ADDRESS_SECONDS = 10.0
"""Longest wait for the address of a server that a watcher holds."""
LOOK_SECONDS = 1.0
"""Seconds between two looks at whether the server is there."""
DRAIN_SECONDS = 2.0
"""Seconds between the last run's end and the server's: it writes events once a second."""


def silence_prefect() -> None:
    """Keep Prefect's own lines off the terminal; call it before Prefect is imported.

    They would repeat ours and show a traceback for a mistyped name. The Prefect UI has them.
    """
    os.environ.setdefault("PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL", "CRITICAL")


def server_command(port: int) -> list[str]:
    """Return the command of a Prefect server on a port of this machine."""
    return python_command("-m", "torchmill.flows.services.prefect_app", str(port))


def prepare_database(runs: Runs) -> None:
    """Create the database's file, empty, with the user's umask: SQLite by itself lets no group write."""
    runs.prefect.mkdir(exist_ok=True)
    runs.prefect_database.touch()


def server_environment(runs: Runs, port: int, ui: bool) -> dict[str, str]:
    """Return the environment of a server whose database is ``mlruns/prefect/prefect.db``."""
    settings = {
        "PREFECT_HOME": str(runs.prefect),
        "PREFECT_SERVER_API_HOST": "127.0.0.1",
        "PREFECT_SERVER_API_PORT": str(port),
        "PREFECT_SERVER_UI_API_URL": "/api",  # under the name that the browser has for this server
        "PREFECT_SERVER_CORS_ALLOWED_ORIGINS": f"http://127.0.0.1:{port}",
        CREDENTIALS: credentials(runs),
        "PREFECT_SERVER_UI_ENABLED": str(ui).lower(),
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_SERVER_SERVICES_EVENT_PERSISTER_FLUSH_INTERVAL": "1",
        "PREFECT_LOGGING_LEVEL": "WARNING",
        "DO_NOT_TRACK": "1",
    }
    if not ui:  # it serves only runs that are started by hand: nothing to schedule, trigger or clean up
        for service in ("SCHEDULER", "LATE_RUNS", "TRIGGERS", "PAUSE_EXPIRATIONS", "CANCELLATION_CLEANUP", "FOREMAN"):
            settings[f"PREFECT_SERVER_SERVICES_{service}_ENABLED"] = "false"
    if not any(name.startswith("PREFECT_SERVER_DATABASE_") for name in os.environ):
        settings["PREFECT_SERVER_DATABASE_CONNECTION_URL"] = sqlite_uri(runs.prefect_database, "aiosqlite")
    ours = {"PREFECT_API_URL", "PREFECT_PROFILE", "PREFECT_API_DATABASE_CONNECTION_URL"}
    # PREFECT_SERVER_DATABASE_… stays: a team may choose PostgreSQL.
    return {key: value for key, value in os.environ.items() if key not in ours} | settings


class ServerAtHand:
    """The Prefect server that this process uses. Enter it early: it starts while libraries are imported."""

    def __init__(self, runs: Runs):
        self.runs = runs
        self.api = ""
        self.is_shared = self.is_configured = self._is_user = self._is_given_up = False
        self.was_lost = False
        """True once the server did not answer any more, although it may be back."""
        self._exits = contextlib.ExitStack()
        self._ended: threading.Event | None = None

    def __enter__(self) -> "ServerAtHand":
        self.api = self._configured() or self._of_up() or self._shared()
        return self

    def __exit__(self, *error: object) -> None:
        self._exits.close()

    def is_reachable(self) -> bool:
        """Return True if something listens at the server's address."""
        parts = urllib.parse.urlsplit(self.api)
        port = parts.port or (443 if parts.scheme == "https" else 80)
        with contextlib.suppress(OSError), socket.create_connection((parts.hostname or "", port), timeout=2):
            return True
        return False

    def look_after(self) -> None:
        """Start our own server again whenever it has gone, for as long as this process uses it."""
        if self._ended is None:
            self._ended = threading.Event()
            self._exits.callback(self._ended.set)
            threading.Thread(target=self._look_after, args=(self._ended,), daemon=True).start()

    def _look_after(self, ended: threading.Event) -> None:
        misses = 0
        while not ended.wait(LOOK_SECONDS):
            misses = 0 if self.is_reachable() else misses + 1
            if misses < 2:  # a connection may be refused once
                continue
            if not (self.was_lost or self.is_configured):
                logger.warning("The Prefect server of this run has gone. Another one goes on with the same history.")
            self.was_lost, misses = True, 0
            if not self.is_configured:
                self._start_again()

    def _start_again(self) -> None:
        try:
            self._shared()
        except UserError as error:
            logger.warning("It did not start: %s", error)

    def wait_until_back(self, seconds: float) -> bool:
        """Wait for a server that has gone, and return whether it is there. A second wait in vain is none."""
        deadline = time.monotonic() + (0 if self._is_given_up else seconds)
        while not answers(f"{self.api}/health", anything=self.is_configured):
            if time.monotonic() > deadline:
                self._is_given_up = True
                return False
            time.sleep(0.2)
        self._is_given_up = False
        return True

    def _configured(self) -> str:
        """Return the address from the environment or the Prefect profile, if that server answers."""
        api = configured_api()
        if api and not answers(f"{api}/health", seconds=10, anything=True):
            print(
                f"torchmill: the Prefect server at {without_passwords(api)} does not answer; "
                f"this run is kept in {self.runs.prefect}.",
                file=sys.stderr,
            )
            return ""
        self.is_configured = bool(api)
        return api

    def _of_up(self) -> str:
        """Return the address of the server of a running `torchmill up`."""
        state = up_state.read_up_state(self.runs)
        api = state.prefect_api
        if not (api and up_state.is_running(self.runs) and answers(f"{api}/health")):
            return ""
        self.is_configured = "prefect" in state.theirs
        self._use()
        return api

    def _use(self) -> None:
        """Hold the lock of those who use a server of ours, until this process ends.

        The system frees the lock even after kill -9. The watcher of the shared server waits for that.
        """
        if not self._is_user:
            self._is_user = True
            self._exits.enter_context(locked(users_lock(self.runs), shared=True))

    def _shared(self) -> str:
        """Return the address of the server that runs share, and start it for the first of them."""
        self.is_shared = True
        self._use()
        with locked(_start_lock(self.runs)):
            lock, api = _lock_or_address(self.runs)
            if api:
                return api
            port = urllib.parse.urlsplit(self.api).port or 0  # that of the server that has gone
            api = f"http://127.0.0.1:{free_port(port)}/api"
            # The watcher inherits the lock, so that it holds it from its first moment to its last.
            with append_to(self.runs.work / "prefect.log") as log:
                watcher = start_python(
                    *("-m", "torchmill.flows.services.prefect_server", str(self.runs.folder), api),
                    stdout=log,
                    stderr=log,
                    start_new_session=True,  # it survives Ctrl-C here: other runs may use it
                    pass_fds=() if lock is None else (lock,),
                )
            if lock is not None:
                os.close(lock)
            _write_address(self.runs, api, watcher.pid)
            return api

    def wait(self) -> None:
        """Wait until the server answers.

        Raises:
            UserError: the server did not start.
        """
        deadline = time.monotonic() + START_SECONDS
        while not answers(f"{self.api}/health"):
            if time.monotonic() > deadline or (self.is_shared and not _is_watched(self.runs)):
                log = self.runs.work / "prefect.log"
                raise UserError(
                    f"The Prefect server that keeps this run's history did not start: {last_line(log)}", f"See {log}."
                )
            time.sleep(0.05)


def _start_lock(runs: Runs) -> Path:
    """Return the lock that is held while a server is looked for and started."""
    return runs.work / "prefect-start.lock"


def _watcher_lock(runs: Runs) -> Path:
    """Return the lock that the watcher of the shared server holds as long as it lives."""
    return runs.work / "prefect-watcher.lock"


def _lock_or_address(runs: Runs) -> tuple[int | None, str]:
    """Return the watcher's lock for a new server, or the address of the server that is watched already.

    A watcher that ends has removed the address before it frees its lock, and one whose file was damaged writes it
    again. Both take a moment. If a watcher does neither, a second server is started without the lock.
    """
    deadline = time.monotonic() + ADDRESS_SECONDS
    while time.monotonic() < deadline:
        if (lock := lock_for_child(_watcher_lock(runs))) is not None:
            return lock, ""
        if shared := read_json(up_state.shared_server_file(runs), up_state.SharedServer):
            return None, shared.api
        time.sleep(0.05)
    return None, ""


def _is_watched(runs: Runs) -> bool:
    """Return False if the shared server's watcher has died."""
    with locked(_start_lock(runs), wait=False) as is_free:
        if not is_free:  # another run starts a server
            return True
        with locked(_watcher_lock(runs), wait=False) as is_dead:
            return not is_dead


def _write_address(runs: Runs, api: str, watcher: int) -> None:
    # Only earlier versions read the id.
    write_text(up_state.shared_server_file(runs), json.dumps({"api": api, "pid": watcher}))


def configured_api() -> str:
    """Return the address of the server from the environment or the Prefect profile; empty if there is none."""
    from prefect.settings import get_current_settings

    return get_current_settings().api.url or ""


def users_lock(runs: Runs) -> Path:
    """Return the lock that every process shares which uses a server of ours."""
    return runs.work / "prefect-users.lock"


_at_hand: ServerAtHand | None = None


def current() -> ServerAtHand | None:
    """Return the server that this process uses; None in a process that ``torchmill up`` or a worker started."""
    return _at_hand


@contextlib.contextmanager
def at_hand(runs: Runs) -> Generator[ServerAtHand]:
    """Provide a Prefect server inside the block; nested blocks share it."""
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
    """Return True if this process's flow runs are in the folder's own database, not on a server of the user's."""
    # The runner of `torchmill up` has that folder as its home.
    return os.environ.get("PREFECT_HOME") == str(runs.prefect) or (_at_hand is not None and not _at_hand.is_configured)


def prefect_ui(runs: Runs) -> str:
    """Return the address of the UI with this process's flow runs: their server's, or the one of `torchmill up`."""
    if _at_hand is not None and _at_hand.is_shared:  # it has no UI, but `torchmill up` shows the same history
        return ui_address(runs, "prefect")
    return (configured_ui() or ui_address(runs, "prefect")).rstrip("/")


def configured_ui() -> str:
    """Return the address of the UI of the configured server; empty if there is none."""
    from prefect.settings import get_current_settings

    settings = get_current_settings()
    return without_passwords(settings.ui_url or (settings.api.url or "").rstrip("/").removesuffix("/api"))


def watch(runs: Runs, api: str) -> None:
    """Run the shared server until no run uses it, then end it; crashed flow runs are closed meanwhile."""
    port = int(api.split(":")[2].split("/")[0])
    prepare_database(runs)
    server = subprocess.Popen(
        server_command(port), env=server_environment(runs, port, ui=False), preexec_fn=dies_with_parent
    )
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    try:
        users = users_lock(runs)
        while server.poll() is None:
            time.sleep(0.5)
            if not up_state.shared_server_file(runs).exists():
                _write_address(runs, api, os.getpid())
            if crashed_runs.dead(runs, own=True):
                crashed_runs.close_elsewhere(runs, api)
            with locked(users, wait=False) as is_unused:
                pass
            if not is_unused:
                continue
            time.sleep(DRAIN_SECONDS)
            if crashed_runs.dead(runs, own=True):
                continue
            # Held to the end: a run that begins now waits and then starts another server.
            with locked(users, wait=False) as is_unused:
                if is_unused:
                    up_state.shared_server_file(runs).unlink(missing_ok=True)
                    end(server)
    finally:
        end(server)


if __name__ == "__main__":
    watch(Runs(Path(sys.argv[1])), sys.argv[2])
