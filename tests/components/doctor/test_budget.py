"""An examination ends in time, and names the checks that it left out."""

import itertools

import pytest
from torch import nn

from tests.components.doctor.base_networks import MLP
from tests.components.doctor.check_inputs import check_input
from torchmill.components.doctor.examine import CHECKS, examine
from torchmill.components.doctor.verdict import Report


def examined(seconds: float, training_samples: float, network: nn.Module | None = None) -> Report:
    """Examine a network with a clock that goes on by some seconds each time it is read."""
    clock = itertools.count(0, seconds)
    return examine(check_input(network or MLP()), "full", training_samples, lambda: next(clock))


def test_checks_after_ten_seconds_are_left_out_if_the_training_is_short():
    report = examined(seconds=1, training_samples=100)
    names = [check.name for check in CHECKS]
    assert report.out_of_time and list(report.out_of_time) == names[names.index(report.out_of_time[0]) :]
    assert {"registered", "forward"} <= {verdict.check for verdict in report.verdicts}
    assert report.as_json()["out_of_time"] == list(report.out_of_time)
    assert any(line.startswith("left out for lack of time: ") and "overfit, export" in line for line in report.lines())
    assert report.worst != "fail"


def test_a_long_training_gives_the_examination_more_time():
    assert examined(seconds=1, training_samples=16 * 10_000).out_of_time == ()


@pytest.mark.parametrize("seconds", [0.0, 0.01])
def test_all_checks_run_within_ten_seconds(seconds):
    assert examined(seconds, training_samples=1).out_of_time == ()


class Failing(nn.Module):
    def __init__(self):
        super().__init__()
        self.out = nn.Linear(12, 5)

    def forward(self, x):
        raise ValueError("no")


def test_a_network_that_fails_is_judged_without_the_time_of_its_training():
    report = examined(3, 100, Failing())
    assert report.worst == "fail"
