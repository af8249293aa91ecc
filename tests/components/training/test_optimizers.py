import copy
import io
import typing

import pytest
import torch
from torch import nn

from components import config as configuration
from components.config import TrainConfig
from components.training.optimizers import make_optimizer, make_schedule

CPU = torch.device("cpu")
OPTIMIZERS = typing.get_args(configuration.Optimizer)
SCHEDULES = typing.get_args(configuration.Schedule)


class Course:
    """A small regression under an optimizer and a schedule."""

    def __init__(self, steps: int, **config: object):
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.network = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1))
            self.inputs = torch.randn(64, 4)
        settings = TrainConfig.model_validate({"lr": 0.01, **config})
        self.optimizer = make_optimizer(self.network, settings, CPU)
        self.schedule = make_schedule(self.optimizer, settings, steps)

    def go(self, steps: int) -> list[float]:
        """Gives the learning rate of each step."""
        rates = []
        for _ in range(steps):
            rates.append(self.optimizer.param_groups[0]["lr"])
            self.optimizer.zero_grad()
            self.loss().backward()
            self.optimizer.step()
            self.schedule.step()
        return rates

    def loss(self) -> torch.Tensor:
        return ((self.network(self.inputs)[:, 0] - self.inputs.sum(1)) ** 2).mean()

    def parts(self) -> tuple[nn.Module, object, object]:
        return self.network, self.optimizer, self.schedule


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_every_optimizer_that_can_be_named_lessens_the_loss(optimizer):
    course = Course(50, optimizer=optimizer, schedule="constant")
    before = course.loss().item()
    course.go(50)
    assert course.loss().item() < 0.7 * before
    assert type(course.optimizer).__name__.lower() == optimizer


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_weight_decay_and_momentum_reach_the_optimizer(optimizer):
    plain, decayed, heavy = (
        Course(9, optimizer=optimizer, schedule="constant", **extra)
        for extra in ({}, {"weight_decay": 0.5}, {"momentum": 0.0})
    )
    for course in (plain, decayed, heavy):
        course.go(9)
    assert not torch.equal(plain.network[0].weight, decayed.network[0].weight)
    assert torch.equal(plain.network[0].weight, heavy.network[0].weight) is (optimizer in ("adam", "adamw"))


def test_frozen_parameters_are_not_the_optimizers():
    network = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    network[0].requires_grad_(False)
    optimizer = make_optimizer(network, TrainConfig(), CPU)
    assert optimizer.param_groups[0]["params"] == list(network[1].parameters())


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("steps", [1, 2, 3, 100])
def test_every_schedule_lasts_as_many_steps_as_there_are_and_never_exceeds_lr(schedule, steps):
    rates = Course(steps, schedule=schedule).go(steps)
    assert len(rates) == steps and all(0 <= rate <= 0.01 * (1 + 1e-9) for rate in rates)


def test_one_cycle_rises_to_lr_over_a_third_and_falls_to_nearly_nothing():
    rates = Course(200, schedule="one_cycle").go(200)
    top = rates.index(max(rates))
    assert max(rates) == pytest.approx(0.01) and 55 <= top <= 62
    assert rates[0] == pytest.approx(0.01 / 25) and rates[-1] < 0.01 / 1e5
    assert rates[: top + 1] == sorted(rates[: top + 1]) and rates[top:] == sorted(rates[top:], reverse=True)


def test_cosine_falls_from_lr_by_half_at_half_time_to_nearly_nothing():
    rates = Course(200, schedule="cosine").go(200)
    assert rates[0] == 0.01 and rates[100] == pytest.approx(0.005) and rates[-1] < 1e-6
    assert rates == sorted(rates, reverse=True)


def test_step_is_a_tenth_after_each_third():
    rates = Course(30, schedule="step").go(30)
    assert rates == pytest.approx([0.01] * 10 + [0.001] * 10 + [0.0001] * 10)


def test_constant_is_lr():
    assert set(Course(30, schedule="constant").go(30)) == {0.01}


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_going_on_from_a_state_is_as_if_never_interrupted(optimizer, schedule):
    whole, first, second = (Course(20, optimizer=optimizer, schedule=schedule) for _ in range(3))
    rates = whole.go(20)
    rates_first = first.go(7)
    file = io.BytesIO()
    torch.save([part.state_dict() for part in first.parts()], file)
    file.seek(0)
    states = torch.load(file, weights_only=True)
    for part, kept in zip(second.parts(), copy.deepcopy(states), strict=True):
        part.load_state_dict(kept)
    assert rates_first + second.go(13) == rates
    for one, other in zip(whole.network.parameters(), second.network.parameters(), strict=True):
        assert torch.equal(one, other)
