"""A batch that doesn't fit in memory is passed in parts."""

import math
import re

import pytest
import torch

from tests.components.training.small_training import Plain, make, newest, state, stop_after, train
from torchmill.components.errors import UserError
from torchmill.components.training.fit import Stopped
from torchmill.components.training.memory import is_out_of_memory
from torchmill.components.training.progress import EpochResult

REFUSALS = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB."),
    RuntimeError("[enforce fail at alloc_cpu.cpp:121] . DefaultCPUAllocator: can't allocate memory: you tried"),
    RuntimeError("MPS backend out of memory (MPS allocated: 8.00 GB)"),
    MemoryError("Unable to allocate 2.00 GiB"),
]


class Tight(Plain):
    """Runs out of memory with more than ``takes`` samples in train mode."""

    def __init__(self, takes: float = 10, refusal: BaseException = REFUSALS[0]):
        super().__init__()
        self.takes, self.refusal = takes, refusal
        self.passes: list[int] = []

    def forward(self, x):
        if self.training:
            self.passes.append(len(x))
            if len(x) > self.takes:
                raise self.refusal
        return super().forward(x)


class TightAlways(Tight):
    """Runs out of memory in eval mode, too."""

    def forward(self, x):
        if len(x) > self.takes:
            raise self.refusal
        return super().forward(x)


class TightAndBreaking(Tight):
    def forward(self, x):
        return super().forward(x) * (math.nan if len(self.passes) > 12 else 1.0)


def trained(kind, data, folder, **config) -> tuple[Tight, list[EpochResult]]:
    network = make(kind)
    history = list(train(network, data, folder, **config))
    return network, history


@pytest.mark.parametrize("refusal", REFUSALS, ids=["cuda", "cpu", "mps", "python"])
def test_a_batch_goes_through_in_parts_and_the_result_is_that_of_the_whole(toy, tmp_path, caplog, refusal):
    config = {"epochs": 2, "batch_size": 31, "optimizer": "sgd", "lr": 0.05}
    whole, expected = trained(lambda: Tight(math.inf), toy, tmp_path / "whole", **config)
    assert not caplog.messages and {epoch.micro_batch for epoch in expected} == {None}
    parted, history = trained(lambda: Tight(10, refusal), toy, tmp_path / "parted", **config)
    assert parted.passes == [31, 16, *(15 * [8, 8, 8, 7] + [8, 7]) * 2]  # 15 batches of 31 and one of 15
    for one, other in zip(whole.parameters(), parted.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)
    for one, other in zip(expected, history, strict=True):
        assert other.train_loss == pytest.approx(one.train_loss, rel=1e-4)
        assert (other.train_score, other.lr) == (one.train_score, one.lr)


def test_micro_batches_are_logged_and_in_the_history(toy, tmp_path, caplog):
    _, history = trained(Tight, toy, tmp_path, epochs=2)
    assert [int(re.search(r"from now on (\d+)", message)[1]) for message in caplog.messages] == [16, 8]
    assert all("same batch of 32" in message for message in caplog.messages)
    assert [epoch.micro_batch for epoch in history] == [8, 8] and history[0].metrics()["micro_batch"] == 8


def test_without_micro_batches_there_is_no_metric_of_them(toy, tmp_path):
    (epoch,) = train(make(), toy, tmp_path)
    assert "micro_batch" not in epoch.metrics()


def test_a_resumed_training_keeps_its_micro_batch(toy, tmp_path, caplog):
    expected, _ = trained(Tight, toy, tmp_path / "undisturbed")
    with pytest.raises(Stopped):
        list(train(make(Tight), toy, tmp_path / "stopped", should_stop=stop_after(4)))
    assert newest(tmp_path / "stopped")["micro_batch"] == 8
    caplog.clear()
    network = make(Tight)
    (epoch,) = train(network, toy, tmp_path / "stopped", resume=True)
    assert not caplog.messages and set(network.passes) == {8}
    assert epoch.micro_batch == 8 and state(network) == state(expected)


@pytest.mark.parametrize("refusal", REFUSALS[:2], ids=["cuda", "cpu"])
def test_too_little_memory_for_one_sample_is_a_user_error(toy, tmp_path, refusal):
    network = make(lambda: Tight(0, refusal))
    with pytest.raises(UserError, match="not enough memory for a single sample") as raised:
        list(train(network, toy, tmp_path))
    assert network.passes == [32, 16, 8, 4, 2, 1] and raised.value.remedy


def test_another_error_of_the_network_is_not_taken_for_out_of_memory(toy, tmp_path, caplog):
    error = RuntimeError("mat1 and mat2 shapes cannot be multiplied (32x784 and 783x24)")
    network = make(lambda: Tight(10, error))
    with pytest.raises(RuntimeError) as raised:
        list(train(network, toy, tmp_path))
    assert raised.value is error and network.passes == [32] and not caplog.messages


@pytest.mark.parametrize("error", REFUSALS, ids=lambda error: type(error).__name__)
def test_out_of_memory_errors_are_recognized(error):
    assert is_out_of_memory(error)


@pytest.mark.parametrize("error", [RuntimeError("shape"), ValueError("k"), UserError("Cannot write"), OSError(28, "")])
def test_other_errors_are_not_out_of_memory(error):
    assert not is_out_of_memory(error)


def test_the_validation_goes_through_in_parts_too(toy, tmp_path):
    _, (epoch,) = trained(TightAlways, toy, tmp_path)
    assert epoch.micro_batch == 8


def test_a_loss_that_is_not_finite_is_found_with_micro_batches(toy, tmp_path):
    with pytest.raises(UserError, match="The loss became nan in epoch 1, step 3: TightAndBreaking"):
        trained(TightAndBreaking, toy, tmp_path)
