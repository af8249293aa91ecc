"""What can be had of a run that has come to its end: scored anew, as a page, beside another."""

import json
from pathlib import Path

import pytest

from tests.flows.conftest import Place, Quick
from torchmill.components.wording import percent

pytestmark = pytest.mark.services


def test_a_run_is_scored_anew_with_the_same_result_and_has_its_page(copied: Place, finished, quick: Quick):
    place = quick(copied)
    again = place.torchmill("evaluate", "first one", "--json")
    assert again.returncode == 0, again.stderr
    scores, metrics = json.loads(again.stdout.splitlines()[-1]), finished.result["metrics"]
    assert scores["score"] == metrics["test_accuracy"] and scores["loss"] == metrics["test_loss"]
    assert scores["others"].items() <= {name.removeprefix("test_"): value for name, value in metrics.items()}.items()
    assert Path(scores["report"]["path"]).is_file()

    page = place.torchmill("report", "last")
    assert page.returncode == 0, page.stderr
    assert "first one" in Path(page.stdout.strip()).read_text()
    place.wait_until_quiet()


def test_a_run_beside_itself_is_not_told_apart(copied: Place, quick: Quick):
    done = quick(copied).torchmill("compare", "first one", "last", "--json")
    assert done.returncode == 0, done.stderr
    compared = json.loads(done.stdout)
    assert all(one["difference"] == 0 for one in compared["differences"]) and compared["mcnemar"]["p"] == 1
    assert Path(compared["page"]).is_file()


def test_an_onnx_model_needs_data_that_it_is_told(copied: Place, finished, quick: Quick):
    place = quick(copied)
    model = finished.result["onnx"]["path"]
    without = place.torchmill("evaluate", model)
    assert without.returncode == 1 and "Add --data NAME." in without.stderr
    scored = place.torchmill("evaluate", model, "--data", "digits")
    assert scored.returncode == 0, scored.stderr
    assert percent(finished.result["metrics"]["test_accuracy"]) in scored.stdout
    place.wait_until_quiet()
