"""A store whose path has odd characters, and output that nobody reads: the run succeeds all the same."""

import json
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.flows.conftest import Place, make_place
from torchmill.components.runs.folders import sqlite_uri

ODD = "what? #1 100%41 & é"


@pytest.fixture
def odd(tmp_path: Path, data: Path) -> Iterator[Place]:
    (tmp_path / ODD).mkdir()
    place = make_place(tmp_path / ODD, data)
    yield place
    place.end()


@pytest.mark.parametrize("name", ["plain", "a?b", "a#b", "100%", "%41", "a b"])
def test_the_address_of_a_database_leads_to_its_file(tmp_path: Path, name: str):
    import sqlalchemy

    (tmp_path / name).mkdir()
    engine = sqlalchemy.create_engine(sqlite_uri(tmp_path / name / "mlflow.db"))
    with engine.begin() as connection:
        connection.execute(sqlalchemy.text("CREATE TABLE t (x)"))
    engine.dispose()
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [tmp_path / name / "mlflow.db"]


@pytest.mark.services
def test_a_store_with_odd_characters_in_its_path_keeps_everything_inside(odd: Place, tmp_path: Path):
    """After a "?" MLflow and Prefect took the rest for options, and wrote another file."""
    settings = ("--train.epochs", "1", "--check.level", "off")
    with_nobody = (
        f"{shlex.quote(sys.executable)} -m torchmill train {' '.join(settings)} >&- 2> >(head -c 1 > /dev/null)"
    )
    code = subprocess.run(["bash", "-c", with_nobody], cwd=odd.folder, env=odd.environment, timeout=300).returncode
    odd.wait_until_quiet()
    assert code == 0 and odd.states() == ["FINISHED"]
    assert odd.prefect("SELECT state_name FROM flow_run") == [("Completed",)]
    assert [path.name for path in tmp_path.iterdir()] == [ODD]
    assert sorted(path.name for path in odd.folder.iterdir() if not path.name.startswith(".")) == ["mlruns"]
    again = odd.torchmill("train", "--json", *settings)
    assert again.returncode == 0 and "Nothing has changed" in again.stderr
    report = odd.torchmill("report", "last")
    assert report.returncode == 0 and Path(report.stdout.strip()).is_file()


@pytest.mark.services
def test_a_result_is_not_repeated_once_its_run_or_version_was_deleted(copied: Place, quick):
    place = quick(copied)
    command = ("train", "--json", "--train.epochs", "3", "--name", "first one")
    first = json.loads(place.torchmill(*command).stdout.splitlines()[-1])

    delete(place, f"client.delete_model_version('digits-simple_cnn', '{first['onnx']['version']}')", first)
    again = place.torchmill(*command)
    assert again.returncode == 0 and "Nothing has changed" not in again.stderr
    assert "was deleted in MLflow: it is recorded anew" in again.stderr
    second = json.loads(again.stdout.splitlines()[-1])
    assert second["run_id"] != first["run_id"] and second["onnx"]["version"] != first["onnx"]["version"]
    assert {step["state"] for name, step in second["steps"].items() if name not in ("register", "promote")} == {
        "cached"
    }

    delete(place, f"client.delete_run('{second['run_id']}')", second)
    third = place.torchmill(*command)
    assert third.returncode == 0 and "was deleted in MLflow" in third.stderr
    assert json.loads(third.stdout.splitlines()[-1])["run_id"] not in (first["run_id"], second["run_id"])
    place.wait_until_quiet()


def delete(place: Place, call: str, result: dict) -> None:
    call = call.replace("digits-simple_cnn", result["onnx"]["model"])
    done = place.python(
        "import mlflow\nfrom torchmill.components.runs.folders import Runs, sqlite_uri\n"
        f"client = mlflow.MlflowClient(sqlite_uri(Runs.here().database))\n{call}\n"
    )
    assert done.returncode == 0, done.stderr
