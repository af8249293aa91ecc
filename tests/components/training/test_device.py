import os

import pytest
import torch

from torchmill.components.errors import UserError
from torchmill.components.processes import processors
from torchmill.components.training import device


def test_auto_is_the_best_that_is_there_and_the_processor_always_is():
    kinds = device.available()
    assert kinds[-1] == "cpu" and set(kinds) <= {"cuda", "mps", "xpu", "cpu"}
    assert device.resolve("auto") == torch.device(kinds[0])
    assert device.resolve("cpu") == torch.device("cpu")


def test_a_device_that_is_not_there_is_told_with_those_that_are():
    missing = next(kind for kind in ("mps", "xpu", "cuda") if kind not in device.available())
    with pytest.raises(UserError, match=f"{missing} is not there; this machine has .*cpu. Try --device auto"):
        device.resolve(missing)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_card_beyond_the_last_is_told_with_the_last():
    with pytest.raises(UserError, match="the last one is cuda:"):
        device.resolve(f"cuda:{torch.cuda.device_count()}")


def test_a_resolved_device_holds_tensors():
    assert torch.ones(2, device=device.resolve("auto")).sum().item() == 2


def test_processors_are_no_more_than_this_process_may_use():
    assert 1 <= processors() <= (os.cpu_count() or 1)


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="no affinity on this system")
def test_processors_follow_the_affinity():
    before = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(before)})
        assert processors() == 1
    finally:
        os.sched_setaffinity(0, before)
