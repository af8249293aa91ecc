import base64
import json
import os
import shutil
import sqlite3
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.started_processes import kill
from torchmill.components.files import locked, write_text
from torchmill.components.runs.folders import Runs
from torchmill.flows.services.prewarm.process import PrewarmedProcess

Started = Callable[..., subprocess.Popen[str]]
TORCHMILL = (sys.executable, "-m", "torchmill")


@dataclass(frozen=True)
class Place:
    """A folder to run in, with its own runs and data."""

    folder: Path
    environment: dict[str, str]
    started: list[subprocess.Popen[str]] = field(default_factory=list)

    @property
    def runs(self) -> Path:
        return self.folder / "mlruns"

    def start(self, *arguments: str, **more: Any) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [*TORCHMILL, *arguments],
            cwd=self.folder,
            env=self.environment | more.pop("env", {}),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            **more,
        )
        self.started.append(process)
        return process

    def torchmill(self, *arguments: str, **more: Any) -> subprocess.CompletedProcess[str]:
        process = self.start(*arguments, **more)
        out, err = process.communicate(timeout=300)
        return subprocess.CompletedProcess(arguments, process.returncode, out, err)

    def python(self, code: str) -> subprocess.CompletedProcess[str]:
        """Run Python in the folder, as a user's script does."""
        return subprocess.run(
            [sys.executable, "-c", code], cwd=self.folder, env=self.environment, capture_output=True, text=True
        )

    def mlflow(self, query: str) -> list[tuple[Any, ...]]:
        return _query(self.runs / "mlflow.db", query)

    def prefect(self, query: str) -> list[tuple[Any, ...]]:
        return _query(self.runs / "prefect" / "prefect.db", query)

    def states(self) -> list[str]:
        """How the runs stand in MLflow, in their order."""
        return [state for (state,) in self.mlflow("SELECT status FROM runs ORDER BY start_time")]

    def journal(self) -> list[dict[str, Any]]:
        (file,) = self.runs.glob("work/*/journal.jsonl")
        return [json.loads(line) for line in file.read_text().splitlines()]

    def processes(self) -> list[psutil.Process]:
        """Processes that have this folder's runs in their command line or environment, or were forked to be in it."""
        found = []
        for process in psutil.process_iter(["pid"]):
            try:
                words = [*process.cmdline(), *process.environ().values(), f"{process.cwd()}/mlruns"]
            except (psutil.NoSuchProcess, psutil.AccessDenied, psutil.ZombieProcess):
                continue
            if process.pid != os.getpid() and any(str(self.runs) in word for word in words):
                found.append(process)
        return found

    def wait_until_quiet(self, seconds: float = 30) -> None:
        """Wait for the server and the recorder that a run leaves to finish on their own."""
        deadline = time.monotonic() + seconds
        while (left := self.processes()) and time.monotonic() < deadline:
            time.sleep(0.2)
        kill(left)
        assert not left, f"still there after {seconds} s: {left}"

    def end(self) -> None:
        """Kill the commands that a failed test left running, and wait for what they started to finish."""
        for process in self.started:
            with process:  # closes its pipes, and waits
                process.kill()
        self.wait_until_quiet()


def _query(database: Path, query: str) -> list[tuple[Any, ...]]:
    with closing(sqlite3.connect(database, timeout=30)) as connection:
        return connection.execute(query).fetchall()


def make_place(folder: Path, data: Path) -> Place:
    inherited = {
        key: value for key, value in os.environ.items() if not key.startswith(("TORCHMILL_", "PREFECT_", "MLFLOW_"))
    }
    own = {
        "TORCHMILL_DATA": str(data),
        # Whatever a run starts can be found by it.
        "TORCHMILL_RUNS": str(folder / "mlruns"),
        # Prefect's profile of whoever runs the tests is not ours.
        "PREFECT_HOME": str(data / "prefect-home"),
        "no_proxy": "127.0.0.1",
    }
    return Place(folder, inherited | own)


MadeOnce = Callable[[str, Callable[[Path], None]], Path]
StartedOnce = Callable[[str, Callable[[], AbstractContextManager[str]]], AbstractContextManager[str]]


@pytest.fixture(scope="session")
def session_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The temporary folder that all workers of a test session share."""
    root = tmp_path_factory.getbasetemp()
    return root.parent if "PYTEST_XDIST_WORKER" in os.environ else root


@pytest.fixture(scope="session")
def started_once(session_folder: Path) -> StartedOnce:
    """Start a server for all workers of a test session: the first one starts it, and ends it after the last user."""

    @contextmanager
    def start(name: str, run: Callable[[], AbstractContextManager[str]]) -> Iterator[str]:
        address, users = session_folder / f"{name}.address", session_folder / f"{name}.users"
        with ExitStack() as server:
            with ExitStack() as use:
                with locked(session_folder / f"{name}.start"):
                    use.enter_context(locked(users, shared=True))
                    if is_owner := not address.exists():
                        address.write_text(server.enter_context(run()))
                yield address.read_text()
            if is_owner:
                with locked(users):  # whoever comes now waits, and then starts another one
                    address.unlink()
                    server.close()

    return start


@pytest.fixture(scope="session")
def made_once(session_folder: Path) -> MadeOnce:
    """Make a folder for all workers of a test session: the first one makes it, and the others wait for it."""
    root = session_folder

    def make(name: str, fill: Callable[[Path], None]) -> Path:
        folder, complete = root / name, root / f"{name}.complete"
        with locked(root / f"{name}.lock"):
            if not complete.exists():
                folder.mkdir(exist_ok=True)
                fill(folder)
                complete.touch()
        return folder

    return make


@pytest.fixture(scope="session")
def data(made_once: MadeOnce) -> Path:
    """A data cache that runs share, as those of one user do."""
    return made_once("data", lambda folder: None)


@pytest.fixture
def place(tmp_path: Path, data: Path) -> Iterator[Place]:
    place = make_place(tmp_path, data)
    yield place
    place.end()


@pytest.fixture(scope="session")
def databases(made_once: MadeOnce, data: Path) -> Path:
    """A folder of runs with the databases of MLflow and Prefect and nothing in them: to make them takes 15 s."""

    def fill(folder: Path) -> None:
        place = make_place(folder, data)
        done = place.python(
            "from torchmill.components import tracking\nfrom torchmill.components.runs.folders import Runs\n"
            "from torchmill.flows.services import prefect_server\n"
            "runs = Runs.here().ready()\n"
            "with prefect_server.at_hand(runs) as server:\n    tracking.create_database(runs)\n    server.wait()\n"
        )
        assert done.returncode == 0, done.stderr
        place.wait_until_quiet()

    return make_place(made_once("databases", fill), data).runs


def make_used_place(folder: Path, data: Path, databases: Path) -> Place:
    """A place whose databases are there already, as after a first run; it was moved to where it is."""
    place = make_place(folder, data)
    for file in ("mlflow.db", "prefect/prefect.db"):
        (place.runs / file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(databases / file, place.runs / file)
    return place


@pytest.fixture
def used(tmp_path: Path, data: Path, databases: Path) -> Iterator[Place]:
    place = make_used_place(tmp_path, data, databases)
    yield place
    place.end()


@contextmanager
def running_server(place: Place) -> Iterator[str]:
    """Run the Prefect server that the runs of a place share, and yield its address with the key."""
    code = (
        "import sys\nfrom torchmill.components.local_access.key import credentials, signed_in\n"
        "from torchmill.components.runs.folders import Runs\nfrom torchmill.flows.services import prefect_server\n"
        "with prefect_server.at_hand(Runs.here().ready()) as server:\n"
        "    server.wait()\n    print(signed_in(server.api, credentials(server.runs)), flush=True)\n"
        "    sys.stdin.read()\n"
    )
    pipe = subprocess.PIPE
    with subprocess.Popen(
        [sys.executable, "-c", code], cwd=place.folder, env=place.environment, stdin=pipe, stdout=pipe, text=True
    ) as holder:
        assert holder.stdout and holder.stdin
        yield holder.stdout.readline().strip()
        holder.stdin.close()
    place.wait_until_quiet()


@pytest.fixture(scope="session")
def prefect_api(
    tmp_path_factory: pytest.TempPathFactory, data: Path, databases: Path, started_once: StartedOnce
) -> Iterator[str]:
    """A Prefect server that runs share: each has one started for it otherwise, which takes 7 s of a processor.

    Its address has the key, as in ``http://torchmill:KEY@127.0.0.1:4200/api``.
    """

    def run() -> AbstractContextManager[str]:
        return running_server(make_used_place(tmp_path_factory.mktemp("prefect"), data, databases))

    with started_once("prefect", run) as api:
        yield api


@contextmanager
def running_prewarm(folder: Path, environment: Mapping[str, str]) -> Iterator[str]:
    """Run a process that becomes the commands of an environment, and yield its address once it does."""
    prewarmed = PrewarmedProcess.start(Runs(folder).ready(), environment)
    deadline = time.monotonic() + 120
    while not prewarmed.address.exists() and time.monotonic() < deadline:
        time.sleep(0.1)
    yield str(prewarmed.address)
    log = folder / "work" / "prewarm.log"
    assert prewarmed.process.poll() is None and not prewarmed.failures, log.read_text()
    prewarmed.end()


@pytest.fixture(scope="session")
def prewarm(
    tmp_path_factory: pytest.TempPathFactory, data: Path, prefect_api: str, started_once: StartedOnce
) -> Iterator[str]:
    """Address of a process that becomes the commands of tests, whose imports take 13 s of a processor."""
    place = make_place(tmp_path_factory.mktemp("prewarm"), data)
    with started_once(
        "prewarm", lambda: running_prewarm(place.runs, place.environment | client_of(prefect_api))
    ) as address:
        yield address


@pytest.fixture(scope="session")
def prewarm_without_server(
    tmp_path_factory: pytest.TempPathFactory, data: Path, started_once: StartedOnce
) -> Iterator[str]:
    """Address of a prewarmed process for commands that start Prefect servers of their own."""
    place = make_place(tmp_path_factory.mktemp("prewarm"), data)
    with started_once("prewarm-without-server", lambda: running_prewarm(place.runs, place.environment)) as address:
        yield address


def client_of(api: str) -> dict[str, str]:
    """Environment of a client of the Prefect server at an address with its key."""
    address, key = without_key(api)
    return {"PREFECT_API_URL": address, "PREFECT_API_AUTH_STRING": key}


def without_key(url: str) -> tuple[str, str]:
    """Split ``http://user:key@host`` into ``http://host`` and ``user:key``."""
    scheme, _, place = url.partition("://")
    key, _, host = place.rpartition("@")
    return f"{scheme}://{host}", key


def ask(url: str, body: object = None, headers: Mapping[str, str] | None = None) -> bytes:
    """Send a request with the key in the address, JSON in its body; returns the answer."""
    plain, key = without_key(url)
    basic = {"Authorization": f"Basic {base64.b64encode(key.encode()).decode()}"} if key else {}
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(plain, data, {"Content-Type": "application/json", **basic, **(headers or {})})
    with urllib.request.urlopen(request, timeout=30) as answer:
        return answer.read()


Quick = Callable[[Place], Place]


def use_prewarm(place: Place, address: str) -> None:
    """Run a place's commands in forks of a prewarmed process."""
    state = Runs(place.runs).ready().work / "up.json"
    words = json.loads(state.read_text()) if state.exists() else {}
    write_text(state, json.dumps(words | {"prewarm": address}))


def made_quick(place: Place, prefect_api: str, prewarm: str) -> Place:
    """Let commands in a place begin at once, for whoever does not look at Prefect's history: it is elsewhere."""
    use_prewarm(place, prewarm)
    return Place(place.folder, place.environment | client_of(prefect_api), place.started)


@pytest.fixture
def quick(prefect_api: str, prewarm: str) -> Quick:
    return lambda place: made_quick(place, prefect_api, prewarm)


@pytest.fixture
def shared(used: Place, quick: Quick) -> Place:
    """As ``used``, and quick."""
    return quick(used)


@pytest.fixture
def prewarmed(used: Place, prewarm_without_server: str) -> Place:
    """Place with databases, commands in forks of a prewarmed process, and Prefect's history in the place itself."""
    use_prewarm(used, prewarm_without_server)
    return used


@dataclass(frozen=True)
class Finished:
    """A whole `torchmill train --json` on the embedded data, without any server up."""

    place: Place
    process: subprocess.CompletedProcess[str]
    result: dict[str, Any]


@pytest.fixture(scope="session")
def finished(made_once: MadeOnce, data: Path) -> Finished:
    def fill(folder: Path) -> None:
        place = make_place(folder, data)
        done = place.torchmill("train", "--json", "--train.epochs", "3", "--name", "first one")
        assert done.returncode == 0, done.stderr
        place.wait_until_quiet()
        (folder / "process.json").write_text(json.dumps([done.args, done.returncode, done.stdout, done.stderr]))

    place = make_place(made_once("finished", fill), data)
    process = subprocess.CompletedProcess(*json.loads((place.folder / "process.json").read_text()))
    return Finished(place, process, json.loads(process.stdout.splitlines()[-1]))


@pytest.fixture
def copied(finished: Finished, tmp_path: Path, data: Path) -> Iterator[Place]:
    """The folder of the finished run, in another place."""
    place = make_place(tmp_path, data)
    shutil.copytree(finished.place.runs, place.runs)
    yield place
    place.end()
