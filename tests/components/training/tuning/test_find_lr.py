"""The learning rate search returns a rate that trains well, and changes nothing."""

import random

import numpy as np
import pytest
import torch

from tests.components.training.small_training import CPU, Plain, Small, make, senseless, state, train
from torchmill.components.config import load
from torchmill.components.data.samples import read_training
from torchmill.components.errors import UserError
from torchmill.components.training.config import TrainConfig
from torchmill.components.training.setup import TrainingSetup
from torchmill.components.training.tuning import find_lr as module
from torchmill.components.training.tuning.find_lr import HIGHEST, LOWEST, cached_lr, find_lr


def curve_of(network, data, splits=None, seed=0, **config):
    splits = splits or read_training(data.with_split(0.2, seed=0))
    settings = TrainConfig.model_validate({"batch_size": 32, **config})
    return find_lr(TrainingSetup(network, *splits, data, settings, CPU, seed))


@pytest.mark.parametrize(
    ("kind", "optimizer"),
    [(Small, "adam"), (Plain, "adamw"), (Plain, "sgd"), pytest.param(Small, "muon", marks=pytest.mark.slow)],
)
def test_what_is_found_trains_well(toy, tmp_path, kind, optimizer):
    curve = curve_of(make(kind), toy, optimizer=optimizer)
    assert LOWEST < curve.lr < HIGHEST and len(curve.rates) == len(curve.losses) > 20
    *_, last = train(make(kind), toy, tmp_path, epochs=3, optimizer=optimizer, lr=curve.lr)
    assert last.validation_score > 0.95
    *_, least = train(make(kind), toy, tmp_path / "less", epochs=3, optimizer=optimizer, lr=curve.lr / 1000)
    assert least.validation_loss > 2 * last.validation_loss


def test_network_and_chance_are_left_as_they_were_and_the_same_is_found_again(toy):
    network = make(Small)
    before = state(network), torch.get_rng_state(), random.getstate(), np.random.get_state()[1].copy()
    first = curve_of(network, toy, augment="shift")
    after = state(network), torch.get_rng_state(), random.getstate(), np.random.get_state()[1]
    assert before[0] == after[0] and torch.equal(before[1], after[1]) and before[2] == after[2]
    assert (before[3] == after[3]).all() and network.training
    assert curve_of(network, toy, augment="shift") == first
    assert curve_of(network, toy, augment="shift", seed=1) != first


def test_settings_that_are_for_the_training_alone_do_not_count(toy):
    plain = curve_of(make(Plain), toy)
    assert curve_of(make(Plain), toy, lr=3.0, schedule="step", warmup=0.5, ema=0.9, schedule_args={"parts": 2}) == plain


def test_where_nothing_is_to_be_learned_it_is_told(toy, monkeypatch):
    monkeypatch.setattr(module, "HIGHEST", 1e-6)
    with pytest.raises(
        UserError, match=r"The loss falls at no learning rate from 1e-07 to 1e-06: it is 2\.\d+ at first"
    ):
        curve_of(make(Plain), toy, splits=senseless(toy))


def test_it_is_found_once_for_a_training(toy, tmp_path):
    splits = read_training(toy.with_split(0.2, seed=0))
    first = cached_lr(tmp_path, TrainingSetup(make(Plain), *splits, toy, TrainConfig(), CPU, 0))
    assert cached_lr(tmp_path, TrainingSetup(make(Plain, seed=5), *splits, toy, TrainConfig(), CPU, 5)) == first


def test_auto_is_a_rate_that_is_to_be_found():
    assert load(None, {"train.lr": "auto"}).train.lr is None
    assert TrainConfig.model_validate({"lr": "auto"}).lr is None
