"""MLflow groups metrics by the part of their name before a slash."""

import pytest

from torchmill.components.tracking.metric_groups import grouped, ungrouped

NAMES = {
    "test_accuracy": "test/accuracy",
    "test_accuracy_low": "test/accuracy_low",
    "validation_loss": "validation/loss",
    "train_loss": "train/loss",
    "lr": "train/lr",
    "micro_batch": "train/micro_batch",
    "best_epoch": "train/best_epoch",
    "data_leakage": "data/leakage",
    "onnx_max_abs_diff": "onnx/max_abs_diff",
    "seconds.fit": "time/fit_seconds",
    "samples_per_second": "time/samples_per_second",
}


@pytest.mark.parametrize("name", NAMES)
def test_a_group_comes_first_and_the_name_comes_back(name):
    assert grouped(name) == NAMES[name] and ungrouped(grouped(name)) == name


@pytest.mark.parametrize("name", ["epochs", "own/metric", "test", "testing_time", "train_"])
def test_a_name_of_no_group_stays(name):
    assert grouped(name) == name and ungrouped(name) == name


@pytest.mark.parametrize("name", NAMES)
def test_names_of_earlier_versions_are_read_as_they_are(name):
    assert ungrouped(name) == name
