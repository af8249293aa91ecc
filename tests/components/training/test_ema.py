"""The EMA of the weights is validated and saved as the best; training itself doesn't change."""

import math

import pytest
import torch
from safetensors.torch import load_model
from torch.nn.functional import cross_entropy

from tests.components.training.small_training import CPU, STEPS, Plain, Small, make, newest, state, train
from torchmill.components import tasks
from torchmill.components.data.samples import read_training
from torchmill.components.initialization.standardized_model import StandardizedModel
from torchmill.components.training.batches import epoch_batches
from torchmill.components.training.config import TrainConfig
from torchmill.components.training.optimizers import make_optimizer
from torchmill.components.training.rng import seed_all
from torchmill.components.training.schedules import make_schedule
from torchmill.components.training.validation import validate


def weights_after_each_step(data, epochs: int, **settings) -> list[dict[str, torch.Tensor]]:
    """Train by hand, without ``fit``."""
    training, _ = read_training(data.with_split(0.2, seed=0))
    config = TrainConfig.model_validate({"batch_size": 32, **settings})
    model = StandardizedModel.of(make(), data)
    optimizer = make_optimizer(model.network, config, CPU)
    schedule = make_schedule(optimizer, config, STEPS * epochs)
    seed_all(0)
    after = []
    for epoch in range(1, epochs + 1):
        model.train()
        for batch in epoch_batches(len(training), 32, 0, epoch):
            optimizer.zero_grad()
            cross_entropy(model(training.inputs[batch]), training.labels[batch]).backward()
            optimizer.step()
            schedule.step()
            after.append({name: value.clone() for name, value in model.network.state_dict().items()})
    return after


PLAIN = {"lr": 0.02, "optimizer": "sgd", "channels_last": "off", "patience": 9}


def test_the_weights_kept_are_the_average_over_the_steps(toy, tmp_path):
    steps = weights_after_each_step(toy, 1, **PLAIN)
    network = make()
    (epoch,) = train(network, toy, tmp_path, ema=0.8, **PLAIN)
    best = make(seed=1)
    load_model(best, tmp_path / "best.safetensors")
    assert state(best) == state(network)
    for name, value in network.state_dict().items():
        if value.is_floating_point():  # batch norm's statistics are averaged like weights
            average = steps[0][name].double()
            for step in steps[1:]:
                average = 0.8 * average + 0.2 * step[name].double()
            torch.testing.assert_close(value.double(), average, rtol=1e-4, atol=1e-6)
    assert not torch.equal(network.out.weight, steps[-1]["out.weight"])

    _, validation = read_training(toy.with_split(0.2, seed=0))
    expected = validate(StandardizedModel.of(network, toy), cross_entropy, tasks.task("classification"), validation)
    assert (epoch.validation_loss, epoch.validation_score) == expected


def test_the_weights_that_are_trained_are_not_the_average(toy, tmp_path):
    steps = weights_after_each_step(toy, 2, **PLAIN)
    list(train(make(), toy, tmp_path, epochs=2, ema=0.8, **PLAIN))
    for name, value in newest(tmp_path)["network"].items():
        assert torch.equal(value, steps[-1][name]), name


def test_without_an_average_the_weights_kept_are_those_of_the_steps(toy, tmp_path):
    steps = weights_after_each_step(toy, 2, **PLAIN)
    network, losses = make(), []
    for epoch in train(network, toy, tmp_path, epochs=2, **PLAIN):
        losses.append(epoch.validation_loss)
    best = steps[STEPS * (losses.index(min(losses)) + 1) - 1]
    assert all(torch.equal(value, best[name]) for name, value in network.state_dict().items())


class Indexed(Small):
    """Has an integer buffer, a permutation of the pixels."""

    def __init__(self):
        super().__init__()
        self.register_buffer("order", torch.arange(784).flip(0))

    def forward(self, x):
        return super().forward(x.flatten(1)[:, self.order].view(-1, 1, 28, 28))


@pytest.mark.parametrize("decay", [0.9, 0.9995])
def test_whole_numbers_are_not_averaged(toy, tmp_path, decay):
    network = make(Indexed)
    list(train(network, toy, tmp_path, ema=decay, epochs=2))
    assert torch.equal(network.order, torch.arange(784).flip(0))


class Masked(Plain):
    """Masks half of its hidden units by minus infinity, as attention does."""

    def __init__(self):
        super().__init__()
        self.register_buffer("mask", torch.cat([torch.zeros(12), torch.full((12,), -math.inf)]))

    def forward(self, x):
        return self.out((self.hidden(x.flatten(1)) + self.mask).softmax(1))


def test_infinite_buffers_are_not_averaged(toy, tmp_path):
    network = make(Masked)
    list(train(network, toy, tmp_path, ema=0.9))
    assert torch.equal(network.mask, Masked().mask)
