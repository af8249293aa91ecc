"""Autotune chooses open settings once per training; a compiled network trains like a plain one."""

import copy
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tests.components.training.small_training import CPU, Plain, Small, make, newest, train
from torchmill.components.data.samples import read_training
from torchmill.components.refs import DataRef
from torchmill.components.training.compilation import CompilationFailed
from torchmill.components.training.config import TrainConfig
from torchmill.components.training.fit import Stopped
from torchmill.components.training.setup import TrainingSetup
from torchmill.components.training.tuning import autotune as trials
from torchmill.components.training.tuning.autotune import EPOCH_STEPS, SMALLEST_BATCH, Autotune, Pace


def autotune_of(toy: DataRef, folder: Path) -> Autotune:
    splits = read_training(toy.with_split(0.2, seed=0))
    return Autotune(folder, TrainingSetup(make(Small), *splits, toy, TrainConfig(), CPU, seed=0))


def test_a_trial_leaves_network_and_chance_as_they_were(toy, tmp_path):
    tuner = autotune_of(toy, tmp_path)
    before, chance = copy.deepcopy(tuner.setup.network.state_dict()), torch.get_rng_state()
    pace = tuner.pace(TrainConfig(batch_size=32), CPU)
    assert pace.step_seconds > 0
    assert torch.equal(torch.get_rng_state(), chance)
    assert all(torch.equal(before[name], value) for name, value in tuner.setup.network.state_dict().items())
    assert all(weight.grad is None for weight in tuner.setup.network.parameters())


def test_what_is_given_is_not_tried(toy, tmp_path):
    tuner = autotune_of(toy, tmp_path)
    config = TrainConfig(batch_size=48)
    assert tuner.batch_size(config, CPU) == 48
    assert tuner.device("cpu", config) == CPU
    assert not tuner.compiles(config, CPU) and tuner.compiles(config.model_copy(update={"compile": "on"}), CPU)
    assert not list(tmp_path.iterdir())


def test_a_batch_size_is_found_once_and_leaves_an_epoch_its_steps(toy, tmp_path):
    tuner = autotune_of(toy, tmp_path)
    config = TrainConfig.model_validate({"batch_size": "auto"})
    size = tuner.batch_size(config, CPU)
    assert size in [SMALLEST_BATCH * 2**power for power in range(8)]
    assert size * EPOCH_STEPS <= len(tuner.setup.training)
    assert json.loads((tmp_path / "trials.json").read_text()) == {"batch_size": size}
    (tmp_path / "trials.json").write_text('{"batch_size": 7}')
    assert tuner.batch_size(config, CPU) == 7


class Paced(Autotune):
    """Autotune with fixed timings, because measured ones vary."""

    def pace(self, config: TrainConfig, device: torch.device) -> Pace:
        size = config.batch_size or 0
        if size > 64:
            raise torch.OutOfMemoryError("out of memory")
        if config.compile == "on":
            return Pace(begin_seconds=30, step_seconds=0.5)
        return Pace(0, {"cpu": 1.0, "cuda": 2.0}[device.type])


def paced(toy: DataRef, folder: Path) -> Paced:
    tuner = autotune_of(toy, folder)
    return Paced(folder, tuner.setup)


def test_the_largest_batch_that_fits_is_taken_where_each_is_as_quick_as_the_one_before(toy, tmp_path):
    tuner = paced(toy, tmp_path)
    more = replace(tuner, setup=replace(tuner.setup, training=tuner.setup.training.part(torch.arange(480).repeat(4))))
    assert more.batch_size(TrainConfig.model_validate({"batch_size": "auto"}), CPU) == 64
    few = replace(
        tuner,
        folder=tmp_path / "few",
        setup=replace(tuner.setup, training=tuner.setup.training.part(torch.arange(300))),
    )
    few.folder.mkdir()
    assert few.batch_size(TrainConfig.model_validate({"batch_size": "auto"}), CPU) == 32


def test_the_fastest_device_is_taken_where_there_are_several(toy, tmp_path, monkeypatch):
    monkeypatch.setattr(trials, "available", lambda: ["cuda", "cpu"])
    assert paced(toy, tmp_path).device("auto", TrainConfig()) == CPU


@pytest.mark.parametrize(("epochs", "pays"), [(1, False), (20, True)])
def test_compiling_pays_where_the_whole_is_over_sooner(toy, tmp_path, epochs: int, pays: bool):
    config = TrainConfig(batch_size=32, epochs=epochs, compile="auto")  # 15 steps an epoch
    assert paced(toy, tmp_path).compiles(config, CPU) is pays


def test_a_short_training_is_not_even_tried_compiled(toy, tmp_path):
    assert autotune_of(toy, tmp_path).compiles(TrainConfig(batch_size=32, epochs=1, compile="auto"), CPU) is False


@pytest.mark.services
def test_compiled_it_trains_alike(toy, tmp_path):
    plain, compiled = (list(train(make(Plain), toy, tmp_path / how, epochs=2, compile=how)) for how in ("off", "on"))
    assert [one.train_loss for one in compiled] == pytest.approx([one.train_loss for one in plain], rel=1e-4)


@pytest.mark.services
def test_compiled_it_goes_on_to_the_same_last_bit(toy, tmp_path):
    settings = {"epochs": 2, "compile": "on", "checkpoint_seconds": 0}
    whole, stopped = make(Small), make(Small)
    expected = list(train(whole, toy, tmp_path / "whole", **settings))
    steps = iter(range(100))
    with pytest.raises(Stopped):
        list(train(stopped, toy, tmp_path / "stopped", should_stop=lambda: next(steps) == 20, **settings))
    assert (newest(tmp_path / "stopped") or {})["epoch"] == 2
    again = make(Small, seed=9)
    assert [one.train_loss for one in train(again, toy, tmp_path / "stopped", resume=True, **settings)] == [
        one.train_loss for one in expected
    ]
    for name, value in whole.state_dict().items():
        assert torch.equal(value, again.state_dict()[name]), name


@pytest.mark.services
def test_what_does_not_compile_is_told_in_words(toy, tmp_path, monkeypatch):
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr("torch._inductor.config.cpp.cxx", (str(tmp_path / "no-compiler"),))
    torch._dynamo.reset()  # drops what other tests compiled
    with pytest.raises(CompilationFailed, match=r"does not compile: .*Leave --train.compile off"):
        list(train(make(Plain), toy, tmp_path, compile="on"))
