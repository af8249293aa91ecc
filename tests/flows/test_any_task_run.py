"""Whole commands for a task of the user's over named fields."""

import json
from pathlib import Path

import numpy as np
import pytest

from tests.flows.conftest import make_used_place
from tests.toy_fields import own_file

pytestmark = pytest.mark.services

COMMAND = ["train", "--json", "--data", "own.py:pairs", "--task", "own.py:Distance", "--model", "own.py:Both"]


def test_train_compare_evaluate_and_predict(tmp_path: Path, data: Path, databases: Path):
    place = make_used_place(tmp_path, data, databases)
    own_file(place.folder)
    first = place.torchmill(*COMMAND, "--train.epochs", "2", "--name", "first")
    assert first.returncode == 0, first.stderr
    result = json.loads(first.stdout.splitlines()[-1])
    assert "accuracy" in result["metrics"] or "test_accuracy" in result["metrics"]
    assert (result["onnx"]["version"], result["promotion"]["outcome"]) == ("1", "promoted")  # with two inputs
    page = (Path(result["folder"]) / "report.html").read_text()
    assert "accuracy" in page and "task.name" in page and "own.py:Distance" in page
    again = place.torchmill(*COMMAND, "--train.epochs", "2", "--name", "first")
    assert "Nothing has changed since run first" in again.stderr
    second = place.torchmill(*COMMAND, "--train.epochs", "3", "--name", "second")
    assert second.returncode == 0, second.stderr

    compared = place.torchmill("compare", "first", "second")
    assert compared.returncode == 0, compared.stderr
    assert "second beside first" in compared.stdout and "accuracy" in compared.stdout
    evaluated = place.torchmill("evaluate", "first", "--json")
    assert evaluated.returncode == 0, evaluated.stderr
    assert json.loads(evaluated.stdout.splitlines()[-1])["score"] == pytest.approx(result["metrics"]["test_accuracy"])

    rng = np.random.default_rng(0)
    np.savez(tmp_path / "inputs.npz", left=rng.normal(size=(5, 6)), right=rng.normal(size=(5, 6)))
    predicted = place.torchmill("predict", result["onnx"]["path"], "inputs.npz")
    assert predicted.returncode == 0, predicted.stderr
    assert predicted.stdout.strip() == "predictions.npz"
    with np.load(tmp_path / "predictions.npz") as answers:
        assert answers["distance"].shape == (5,)
