"""Each faulty network gets its verdict: from the right check, for the right layer, with a number. Its state stays."""

import re

import pytest
import torch

from tests.components.doctor import examinations
from tests.components.doctor.check_inputs import check_input
from tests.components.doctor.registry import Fault, faults
from torchmill.components.doctor import examine as doctor

FAULTS = faults()
UNCHECKED = {
    "hugelinear",  # to compare its bytes takes seconds
    "staysintraining",  # a layer in evaluation mode hides its fault; test_purity examines it
}
"""Networks whose state is not compared here."""


SLOW = {"hugelinear", "largelinear"}
"""Networks of a gigabyte; the smaller faults of the same checks run each day."""


@pytest.mark.parametrize(
    "fault",
    [pytest.param(fault, marks=[pytest.mark.slow] * (fault.name in SLOW), id=fault.name) for fault in FAULTS],
)
def test_a_fault_gets_its_verdict(fault: Fault):
    torch.manual_seed(0)
    examine = doctor.examine if fault.name in UNCHECKED else examinations.examine
    report = examine(check_input(fault.make(), fault.inputs, fault.loss, **fault.more), fault.level)
    lines = "\n".join(report.lines())
    expected = (fault.check, fault.verdict, fault.layer)
    matches = [v for v in report.verdicts if (v.check, v.verdict, v.layer) == expected]
    assert matches, lines
    assert all(re.search(r"\d", verdict.evidence) and verdict.remedy for verdict in matches), lines
    other_failures = {v.check for v in report.verdicts if v.verdict == "fail"} - {fault.check}
    assert not (other_failures and fault.alone), lines


def test_faults_are_many_and_have_unique_names():
    assert len({fault.name for fault in FAULTS}) == len(FAULTS) >= 35
