"""A registered model has one champion, whichever process is killed and however many move it at once."""

import json
import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from torchmill.components.tracking.champions import Champions
from torchmill.components.tracking.contests import Contests

pytestmark = pytest.mark.services

# A process that imports MLflow once and forks for each attempt. It never opens a database itself, except in memory, as
# MLflow imports and maps half of itself for its first one.
SCRIPT = """
import json, logging, os, sys
import mlflow
from torchmill.components import tracking
from torchmill.components.tracking.client import open_client
from torchmill.components.tracking.registry import move_champion
from pathlib import Path
from torchmill.components.runs.folders import Runs

tracking.map_tables()
logging.getLogger("mlflow.store.db.utils").setLevel(logging.WARNING)
mlflow.MlflowClient("sqlite://").search_registered_models()
runs = None
MOVES = ("set_registered_model_tag", "set_registered_model_alias", "delete_registered_model_alias")

def forked(work):
    child = os.fork()
    if child == 0:
        code = 1
        try:
            code = work()
        finally:
            os._exit(code)
    return child

def ended(child):
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

def dying_at(moment):
    calls = 0
    def counted(method):
        def call(*arguments, **named):
            nonlocal calls
            calls += 1
            if calls == moment:
                os._exit(9)
            return method(*arguments, **named)
        return call
    for name in MOVES:
        setattr(mlflow.MlflowClient, name, counted(getattr(mlflow.MlflowClient, name)))

def set_champion(version, expected, moment=0):
    def work():
        if moment:
            dying_at(moment)
        with open_client(runs) as client:
            return 0 if move_champion(client, runs, "toy", version, expected, "promoted") else 3
    return work

def roll_back():
    now, was = tracking.roll_back(runs, "toy")
    return int(now)

def contest(challenger, samples):
    def work():
        contest = tracking.Contest.of("champion", challenger, range(100, 100 + samples), "former data")
        tracking.count_contest(runs, "toy", contest)
        return tracking.contests_of(runs, "toy").number(contest)
    return work

def make():
    tracking.create_database(runs.ready())
    with open_client(runs) as client:
        client.create_registered_model("toy")
        for number in range(4):
            client.create_model_version("toy", source=(runs.artifacts / str(number)).as_uri())
        for version in ("2", "3"):  # as an earlier version of Torchmill recorded contests
            client.set_model_version_tag("toy", version, "promotion.method", "exact McNemar test")
            client.set_model_version_tag("toy", version, "promotion.data", "former data")
    return 0

for line in sys.stdin:
    order = json.loads(line)
    runs = Runs(Path(order["runs"]))
    match order["do"]:
        case "make":
            codes = [ended(forked(make))]
        case "set_champion":
            codes = [ended(forked(set_champion(*move))) for move in order["moves"]]
        case "at once":
            children = [forked(set_champion(version, order["expected"])) for version in order["versions"]]
            codes = [ended(child) for child in children]
        case "contests":
            children = [forked(contest(name, order["samples"])) for name in order["challengers"]]
            codes = [ended(child) for child in children]
        case "roll back":
            codes = [ended(forked(roll_back)) for _ in range(order["times"])]
    print(json.dumps(codes), flush=True)
"""


class Registry:
    def __init__(self, folder: Path, forks: subprocess.Popen[str]):
        self.runs = folder / "mlruns"
        self.forks = forks

    def ask(self, **order) -> list[int]:
        """Run an order's attempts, each in a forked process, and return their exit codes."""
        assert self.forks.stdin and self.forks.stdout
        self.forks.stdin.write(json.dumps({"runs": str(self.runs), **order}) + "\n")
        self.forks.stdin.flush()
        return json.loads(self.forks.stdout.readline())

    def read(self, query: str) -> list[tuple]:
        with closing(sqlite3.connect(self.runs / "mlflow.db")) as connection:
            return connection.execute(query).fetchall()

    @property
    def champions(self) -> list[int]:
        return [version for (version,) in self.read("SELECT version FROM registered_model_aliases")]

    @property
    def history(self) -> Champions:
        ((text,),) = self.read("SELECT value FROM registered_model_tags WHERE key = 'torchmill.champions'")
        return Champions.from_json(text)


@pytest.fixture(scope="module")
def forks() -> Iterator[subprocess.Popen[str]]:
    inherited = {key: value for key, value in os.environ.items() if not key.startswith("MLFLOW_")}
    command = [sys.executable, "-W", "ignore", "-c", SCRIPT]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, env=inherited, stdin=pipe, stdout=pipe, text=True) as process:
        yield process
        assert process.stdin
        process.stdin.close()


@pytest.fixture(scope="module")
def empty_registry(tmp_path_factory: pytest.TempPathFactory, forks: subprocess.Popen[str]) -> Path:
    folder = tmp_path_factory.mktemp("registry")
    assert Registry(folder, forks).ask(do="make") == [0]
    return folder


@pytest.fixture
def registry(empty_registry: Path, tmp_path: Path, forks: subprocess.Popen[str]) -> Registry:
    shutil.copytree(empty_registry / "mlruns", tmp_path / "mlruns")
    return Registry(tmp_path, forks)


def test_a_kill_at_any_moment_leaves_one_champion_and_the_next_move_repairs_the_history(registry: Registry):
    assert registry.ask(do="set_champion", moves=[["1", None, 0]]) == [0]
    for moment, after in ((1, 1), (2, 1), (3, 2)):  # before the history, the alias, and the history again
        assert registry.ask(do="set_champion", moves=[["2", "1", moment]]) == [9]
        assert registry.champions == [after], moment
    # The next move drops the attempts that died before the alias was set, and keeps the others.
    assert registry.ask(do="set_champion", moves=[["3", "2", 0]]) == [0]
    assert registry.champions == [3]
    assert [reign.version for reign in registry.history.reigns] == ["1", "2", "3"]
    assert not any(reign.intended for reign in registry.history.reigns)


def test_of_several_concurrent_moves_one_succeeds_and_the_others_are_refused(registry: Registry):
    assert registry.ask(do="set_champion", moves=[["1", None, 0]]) == [0]
    assert sorted(registry.ask(do="at once", versions=["2", "3", "4"], expected="1")) == [0, 3, 3]
    (champion,) = registry.champions
    assert champion in (2, 3, 4)
    assert [reign.version for reign in registry.history.reigns] == ["1", str(champion)]


def test_a_move_that_expects_a_former_champion_is_refused(registry: Registry):
    assert registry.ask(do="set_champion", moves=[["1", None, 0], ["2", "1", 0], ["3", "1", 0], ["2", "1", 0]]) == [
        0,
        0,
        3,
        0,
    ]
    assert registry.champions == [2]


def test_a_rollback_restores_the_former_champion_and_a_second_one_undoes_it(registry: Registry):
    registry.ask(do="set_champion", moves=[["1", None, 0], ["2", "1", 0], ["3", "2", 0]])
    assert registry.ask(do="roll back", times=3) == [2, 3, 2]
    assert registry.champions == [2]
    assert [reign.version for reign in registry.history.reigns] == ["1", "2", "3", "2", "3", "2"]


def test_concurrent_contests_are_all_counted_after_those_of_an_earlier_version(registry: Registry):
    numbers = registry.ask(do="contests", challengers=["a", "b", "c"], samples=300)
    assert sorted(numbers) == [3, 4, 5]
    assert registry.ask(do="contests", challengers=["a"], samples=300) == [numbers[0]]  # the same contest again
    assert registry.ask(do="contests", challengers=["a"], samples=310) == [6]  # the test split has grown
    ((text,),) = registry.read("SELECT value FROM registered_model_tags WHERE key = 'torchmill.contests'")
    (split,) = Contests.from_json(text).splits
    assert split.decided == 6 and len(text) < 5000
