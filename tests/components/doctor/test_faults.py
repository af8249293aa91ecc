"""Each planted fault is found: by its check, in its layer, with a number."""

import re

import pytest
import torch

from tests.components.doctor.cases import case
from tests.components.doctor.faulty import FAULTS, Fault
from torchmill.components.doctor.examine import examine


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_a_planted_fault_is_found(fault: Fault):
    torch.manual_seed(0)
    report = examine(case(fault.make(), fault.inputs, fault.loss, **fault.more), fault.level)
    said = "\n".join(report.lines())
    found = [v for v in report.verdicts if (v.check, v.verdict, v.layer) == (fault.check, fault.verdict, fault.layer)]
    assert found, said
    assert all(re.search(r"\d", verdict.evidence) and verdict.remedy for verdict in found), said
    others = {v.check for v in report.verdicts if v.verdict == "fail"} - {fault.check}
    assert not (others and fault.alone), said


def test_faults_are_many_and_of_every_check():
    assert len({fault.name for fault in FAULTS}) == len(FAULTS) >= 35
