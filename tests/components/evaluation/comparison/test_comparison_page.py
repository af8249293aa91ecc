import dataclasses

import numpy as np

from tests.components.evaluation.report.test_page import NASTY, read
from torchmill.components.evaluation.comparison.page import differing, row, write_comparison
from torchmill.components.evaluation.comparison.paired import pair
from torchmill.components.metrics.paired import Difference
from torchmill.components.metrics.predictions import Predictions
from torchmill.components.runs.reproduction import RecordedRun

TRUTH = np.arange(300) % 3


def predictions(noise: float) -> Predictions:
    outputs = np.eye(3)[TRUTH] + noise * np.random.default_rng(0).normal(size=(300, 3))
    return Predictions(outputs, TRUTH, 1.0)


def recorded(name: str, **params: str) -> RecordedRun:
    metrics = {"validation_loss": [(1, 1.0), (2, 0.5)], "validation_accuracy": [(1, 0.5), (2, 0.8)]}
    tags = {"version.torch": "2.15", "machine": "this one"}
    return RecordedRun(f"id-{name}", name, "FINISHED", tags, {"data.name": "toy", **params}, metrics)


def test_the_page_tells_who_is_better_and_what_differs(tmp_path):
    first, second = recorded("calm-lynx", **{"train.lr": "0.1"}), recorded(NASTY, **{"train.lr": "0.2"})
    page = write_comparison(
        first, second, pair(predictions(1.0), predictions(0.3), "classification"), "accuracy", tmp_path
    )
    text, tags = read(page)
    assert '<div class="score">Better</div>' in text and "McNemar" in text
    assert "train.lr" in text and "0.2" in text
    assert "script" not in tags.all and tags.addresses == [] and text.count("<svg") == 2


def test_regressions_have_a_page_without_right_answers(tmp_path):
    truth = np.random.default_rng(0).normal(size=(100, 1))
    near, far = (Predictions(truth + error, truth, 1.0) for error in (0.1, 0.5))
    text, _ = read(write_comparison(recorded("a"), recorded("b"), pair(far, near, "regression"), "r2", tmp_path))
    assert "McNemar" not in text and '<div class="score">Better</div>' in text


def test_what_a_run_found_out_itself_is_no_setting():
    first = recorded("a", **{"device.used": "cpu", "train.epochs": "3"})
    second = recorded("b", **{"device.used": "cuda", "train.epochs": "4"})
    second = dataclasses.replace(second, tags={**second.tags, "version.torch": "2.16"})
    assert differing(first, second) == [("train.epochs", "3", "4"), ("version of torch", "2.15", "2.16")]


def test_differences_of_shares_are_told_in_percentage_points():
    told = row(Difference("accuracy", 0.9, 0.92, 0.02, (-0.01, 0.05)))
    assert told == ("accuracy", "90.00 %", "92.00 %", "+2.00 points", "-1.00 to +5.00", "not told apart")
