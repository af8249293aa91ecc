"""`repair` closes what died and follows a folder that was moved; `reproduce` runs a recorded run again."""

import json
import platform
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from tests.flows.conftest import Finished, Place, Quick

pytestmark = pytest.mark.services


def addresses(place: Place) -> list[str]:
    return [
        address
        for table, column in (("experiments", "artifact_location"), ("runs", "artifact_uri"))
        for (address,) in place.mlflow(f"SELECT {column} FROM {table}")
    ]


def test_a_folder_that_was_moved_is_followed_and_what_died_is_closed(copied: Place, finished: Finished, quick: Quick):
    copied = quick(copied)
    with closing(sqlite3.connect(copied.runs / "mlflow.db")) as connection, connection:
        ours = f"{copied.runs}/work/gone"
        for run_id, folder in (("dead", ours), ("foreign", None)):
            connection.execute(
                "INSERT INTO runs (run_uuid, name, status, start_time, lifecycle_stage, experiment_id, artifact_uri, "
                "source_type, user_id, source_name, source_version, entry_point_name) "
                f"SELECT '{run_id}', '{run_id}', 'RUNNING', 1, 'active', experiment_id, artifact_location, "
                "'LOCAL', 'x', '', '', '' FROM experiments WHERE name = 'digits'"
            )
            if folder:
                for key, value in (("torchmill.folder", folder), ("torchmill.host", platform.node())):
                    connection.execute("INSERT INTO tags VALUES (?, ?, ?)", (key, value, run_id))
    half = copied.runs / "work" / ".up.json.999999.partial"
    half.write_text("half")

    only_said = copied.torchmill("repair", "--dry-run")
    assert only_said.returncode == 0, only_said.stderr
    for words in ("addresses of artifacts", "run dead (dead) said RUNNING", "foreign", ".up.json.999999.partial"):
        assert words in only_said.stdout
    assert half.exists() and any(str(finished.place.runs) in address for address in addresses(copied))

    done = copied.torchmill("repair")
    assert done.returncode == 0, done.stderr
    assert not half.exists()
    assert all(address.startswith(copied.runs.as_uri()) for address in addresses(copied))
    states = dict(copied.mlflow("SELECT run_uuid, status FROM runs"))
    assert (states["dead"], states["foreign"]) == ("KILLED", "RUNNING")
    again = copied.torchmill("repair")
    assert "foreign" in again.stdout and len(again.stdout.splitlines()) == 2


def test_a_command_in_a_folder_that_was_moved_finds_what_is_done_there(copied: Place, finished: Finished):
    done = copied.torchmill("train", "--json", "--train.epochs", "3", "--name", "first one")
    assert done.returncode == 0 and "Nothing has changed" in done.stderr
    result = json.loads(done.stdout)
    assert result["run_id"] == finished.result["run_id"]
    assert Path(result["onnx"]["path"]).is_relative_to(copied.runs) and Path(result["onnx"]["path"]).exists()


def test_a_recorded_run_is_run_again_and_found_equal_to_the_last_byte(copied: Place, finished: Finished, quick: Quick):
    place = quick(copied)
    versions = place.mlflow("SELECT count(*) FROM model_versions")
    done = place.torchmill("reproduce", finished.result["run_id"][:12])
    assert done.returncode == 0, done.stderr
    assert "results are equal, to the last byte" in done.stdout and "DIFFERENT" not in done.stdout
    assert finished.result["weights"]["sha256"] in done.stdout
    place.wait_until_quiet()
    assert place.mlflow("SELECT count(*) FROM model_versions") == versions
    assert place.mlflow("SELECT count(*) FROM tags WHERE key = 'torchmill.reproduces'") == [(1,)]


def test_a_run_that_is_not_there_is_told_with_the_nearest(copied: Place, quick: Quick):
    done = quick(copied).torchmill("reproduce", "first on")
    assert done.returncode == 1 and "no run 'first on'" in done.stderr and "first one" in done.stderr
    assert "Traceback" not in done.stderr
