"""Each trained model is compared with the champion, and takes its place where it is as good."""

import json
from typing import Any

import pytest

from tests.flows.conftest import Place

pytestmark = pytest.mark.services

NAME = "digits-simple_cnn"


def train(place: Place, *more: str) -> dict[str, Any]:
    done = place.torchmill("train", "--json", "--check.level", "off", *more)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def aliases(place: Place) -> dict[str, int]:
    return dict(place.mlflow("SELECT alias, version FROM registered_model_aliases"))


def tags(place: Place, version: int) -> dict[str, str]:
    return dict(place.mlflow(f"SELECT key, value FROM model_version_tags WHERE version = {version}"))


@pytest.mark.slow
def test_the_life_of_a_champion(shared: Place):
    """One after the other in one folder, since each needs what came before."""
    first = train(shared, "--train.epochs", "1")
    assert aliases(shared) == {"champion": 1}
    assert first["promotion"]["outcome"] == "promoted" and first["promotion"]["champion"] == "1"

    better = train(shared, "--train.epochs", "3")
    assert aliases(shared) == {"champion": 2} and better["promotion"]["outcome"] == "promoted"
    written = tags(shared, 2)
    assert written["promotion.champion_run"] == first["run_id"] and written["promotion.run"] == better["run_id"]
    assert int(written["promotion.n01"]) > int(written["promotion.n10"]) and float(written["promotion.p_value"]) < 0.05
    run_tags = dict(shared.mlflow(f"SELECT key, value FROM tags WHERE run_uuid = '{better['run_id']}'"))
    assert {key: run_tags.get(key) for key in written if key.startswith("promotion.")}.items() <= written.items()
    artifact = next(shared.runs.glob(f"artifacts/digits/{better['run_id']}/artifacts/promotion.json"))
    assert json.loads(artifact.read_text())["comparison"]["samples"] == 355
    assert written["promotion.contest"] == "1" and written["promotion.left_out"] == "0"
    assert list(shared.runs.glob(f"artifacts/digits/{better['run_id']}/artifacts/data/trained_on.npy"))

    worse = train(shared, "--train.epochs", "1", "--seed", "1")
    assert aliases(shared) == {"champion": 2, "challenger": 3}
    assert worse["promotion"]["outcome"] == "kept" and "its score is lower" in worse["promotion"]["reason"]
    assert "kept" in (shared.folder / worse["report"]).read_text()
    said = "this test split has decided 1 contest before: judged at 99.2 % confidence rather than 95 %"
    assert said in worse["promotion"]["reason"] and tags(shared, 3)["promotion.contest"] == "2"

    # The very same once more: nothing to do, and the champion stays who it is.
    again = shared.torchmill("train", "--json", "--check.level", "off", "--train.epochs", "1")
    assert "Nothing has changed" in again.stderr and aliases(shared)["champion"] == 2

    # Another run of the same result does not bring back a version that has lost its place.
    train(shared, "--train.epochs", "1", "--name", "again")
    assert aliases(shared)["champion"] == 2 and tags(shared, 1)["promotion.outcome"] == "kept"

    refused = shared.torchmill("promote", NAME)
    assert refused.returncode == 1 and "stays challenger" in refused.stdout and "--force" in refused.stdout
    assert said in refused.stdout and tags(shared, 3)["promotion.contest"] == "2"  # the same contest again
    forced = shared.torchmill("promote", NAME, "3", "--force")
    assert forced.returncode == 0 and f"{NAME} version 3 is champion" in forced.stdout
    assert aliases(shared) == {"champion": 3}
    back = shared.torchmill("rollback", NAME)
    assert back.returncode == 0 and "version 2 is the champion again" in back.stdout
    assert aliases(shared)["champion"] == 2
    assert shared.torchmill("rollback", NAME).returncode == 0 and aliases(shared)["champion"] == 3
    listed = shared.torchmill("models")
    assert f"{NAME}: 3 versions, champion version 3 (accuracy 0." in listed.stdout
    assert "its test split has decided 2 contests" in listed.stdout
    missing = shared.torchmill("promote", "digits-simplecnn")
    assert missing.returncode == 1 and f"Did you mean {NAME}?" in missing.stderr


@pytest.mark.slow
def test_a_champion_of_other_classes_is_left_until_it_is_said_by_force(shared: Place):
    rows = [f"{number % 7},{number % 3},{'abc'[number % 3]}" for number in range(300)]
    table = shared.folder / "table.csv"
    command = ("--data", f"csv:{table}", "--model", "mlp", "--export.register_as", "table", "--train.epochs", "8")
    more = ("--data.allow_leakage", "--data.args", '{"test_fraction": 0.3}')
    table.write_text("\n".join(["x,y,label", *rows]))
    train(shared, *command, *more)
    table.write_text("\n".join(["x,y,label", *(row.replace("c", "d") for row in rows)]))
    other = train(shared, *command, *more)
    assert other["promotion"]["outcome"] == "kept" and "cannot be compared" in other["promotion"]["reason"]
    assert aliases(shared) == {"champion": 1, "challenger": 2}
    # Of the same classes, it is asked about the new test rows.
    table.write_text("\n".join(["x,y,label", *reversed(rows), "1,1,a"]))
    third = train(shared, *command, *more)
    assert "trained on other data" in third["promotion"]["reason"]
    assert tags(shared, 3)["promotion.champion"] == "1"


def test_promotion_can_be_left_off(shared: Place):
    assert train(shared, "--train.epochs", "1", "--promote.mode", "off")["promotion"] is None
    assert aliases(shared) == {"challenger": 1}


@pytest.mark.slow
def test_models_of_two_data_sets_are_not_compared(shared: Place):
    rows = [f"{number % 7},{number % 3},{'abc'[number % 3]}" for number in range(300)]
    done = []
    for project in ("bolts", "bottles"):
        (shared.folder / project).mkdir()
        (shared.folder / project / "parts.csv").write_text("\n".join(["x,y,label", *rows, f"1,{len(done)},a"]))
        command = ("--data", f"csv:{project}/parts.csv", "--model", "mlp", "--train.epochs", "2")
        done.append(train(shared, *command, "--data.allow_leakage", "--export.register_as", "parts"))
    assert done[0]["promotion"]["outcome"] == "promoted"
    assert done[1]["promotion"]["outcome"] == "kept"
    reason = done[1]["promotion"]["reason"]
    assert "another data set" in reason and "bolts/parts.csv" in reason and "--export.register_as" in reason
    assert aliases(shared)["champion"] == 1
    by_hand = shared.torchmill("promote", "parts", "2")
    assert by_hand.returncode == 1 and "another data set" in by_hand.stdout
    assert shared.torchmill("promote", "parts", "2", "--force").returncode == 0 and aliases(shared)["champion"] == 2
    titles = {title for (title,) in shared.mlflow("SELECT name FROM experiments")}
    assert {title.rpartition("-")[0] for title in titles if "parts" in title} == {
        "csv-bolts-parts",
        "csv-bottles-parts",
    }
