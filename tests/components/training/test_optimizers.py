import copy
import io

import pytest
import torch
from torch import nn

from torchmill.components.errors import UserError
from torchmill.components.training import config as rooms
from torchmill.components.training.config import TrainConfig
from torchmill.components.training.optimizers import clip_gradients, make_optimizer
from torchmill.components.training.optimizers.muon import as_matrix
from torchmill.components.training.schedules import make_schedule
from torchmill.components.training.schedules.plateau import PlateauLR

CPU = torch.device("cpu")
OPTIMIZERS = rooms.OPTIMIZERS.names()
SCHEDULES = rooms.SCHEDULES.names()


class Course:
    """A small regression under an optimizer and a schedule."""

    def __init__(self, steps: int, **config: object):
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.network = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 1))
            self.inputs = torch.randn(64, 4)
        settings = TrainConfig.model_validate({"lr": 0.01, **config})
        self.optimizer = make_optimizer(self.network, settings, CPU)
        self.schedule = make_schedule(self.optimizer, settings, steps)

    def go(self, steps: int) -> list[float]:
        """Return the learning rate of each step."""
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
    course = Course(50, optimizer=optimizer, schedule="constant", lr={"adadelta": 1.0}.get(optimizer, 0.01))
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
    assert torch.equal(plain.network[0].weight, heavy.network[0].weight) is (optimizer not in ("sgd", "rmsprop"))


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


def test_linear_falls_evenly_to_its_end():
    rates = Course(10, schedule="linear", schedule_args={"end": 0.5}).go(10)
    assert rates == pytest.approx([0.01 - 0.0005 * step for step in range(10)])


@pytest.mark.parametrize("schedule", [name for name in SCHEDULES if name != "one_cycle"])
def test_a_warmup_rises_evenly_and_leaves_the_schedule_the_steps_behind_it(schedule):
    rates = Course(40, schedule=schedule, warmup=0.25).go(40)
    assert rates[:10] == pytest.approx([0.01 * (step + 1) / 11 for step in range(10)])
    assert rates[10:] == pytest.approx(Course(30, schedule=schedule).go(30))


def test_a_plateau_lessens_the_rate_after_its_patience_and_again():
    course = Course(100, schedule="plateau", schedule_args={"factor": 0.5, "patience": 1}, warmup=0.02)
    assert isinstance(course.schedule, PlateauLR)
    rates = []
    for loss in (1.0, 0.9, 0.95, 0.9, 0.8, 0.8, 0.8, 0.79):
        rates.append(course.go(2)[-1])
        course.schedule.judge(loss)
    assert rates == pytest.approx([0.01 * 2 / 3] + [0.01] * 3 + [0.005] * 3 + [0.0025])


def momenta(optimizer: str, **config: object) -> list[float]:
    course = Course(100, optimizer=optimizer, **config)
    found = []
    for _ in range(100):
        group = course.optimizer.param_groups[0]
        found.append(group["betas"][0] if "betas" in group else group.get("momentum", 0.0))
        course.go(1)
    return found


def test_one_cycle_swings_momentum_around_what_was_asked_for():
    for optimizer, asked in (("adam", {}), ("sgd", {}), ("sgd", {"momentum": 0.6})):
        around = asked.get("momentum", 0.9)
        found = momenta(optimizer, **asked)
        assert (min(found), max(found)) == pytest.approx((around - 0.05, around + 0.05), abs=1e-6)
    assert set(momenta("sgd", momentum=0.0)) == {0.0} and set(momenta("adadelta")) == {0.0}


class Shapes(nn.Module):
    """Has every kind of parameter that Muon treats differently."""

    def __init__(self):
        super().__init__()
        self.words, self.conv = nn.Embedding(5, 4), nn.Conv2d(4, 6, 3)
        self.norm, self.hidden, self.head = nn.BatchNorm2d(6), nn.Linear(6, 8), nn.Linear(8, 10)

    def forward(self, x):
        x = self.words(x).permute(0, 3, 1, 2).to(memory_format=torch.channels_last)
        return self.head(self.hidden(self.norm(self.conv(x)).mean((2, 3))))


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_muon_steps_of_matrices_are_orthogonal_and_of_the_rest_adamws(memory_format):
    torch.manual_seed(0)
    network = Shapes().to(memory_format=memory_format)
    settings = TrainConfig(optimizer="muon", lr=0.01, weight_decay=0.0)
    optimizer = make_optimizer(network, settings, CPU)
    before = {name: weight.detach().clone() for name, weight in network.named_parameters()}
    torch.nn.functional.cross_entropy(network(torch.randint(5, (64, 6, 6))), torch.randint(10, (64,))).backward()
    optimizer.step()
    steps = {name: (before[name] - weight.detach()) / 0.01 for name, weight in network.named_parameters()}
    for name in ("conv.weight", "hidden.weight"):
        step = as_matrix(steps[name])
        spread = torch.linalg.svdvals(step / (0.2 * max(step.shape) ** 0.5))
        assert spread.min() > 0.5 and spread.max() < 1.5, name
    for name in set(steps) - {"conv.weight", "hidden.weight", "conv.bias"}:  # Adam begins with the gradient's sign
        moved = steps[name][steps[name] != 0].abs()
        assert moved.median().item() == pytest.approx(1, rel=0.01) and moved.max() < 1.01, name


def test_a_matrix_of_weights_is_their_own_memory_in_any_format():
    weights = torch.arange(120.0).view(2, 3, 4, 5)
    for held in (weights, weights.to(memory_format=torch.channels_last), weights.transpose(2, 3)):
        matrix = as_matrix(held)
        assert matrix.shape == (2, 60) and matrix.untyped_storage().data_ptr() == held.untyped_storage().data_ptr()
        assert matrix.sort(1).values.equal(weights.flatten(1))


def test_arguments_reach_the_optimizer_and_wrong_ones_are_told_in_words():
    assert Course(1, optimizer_args={"betas": [0.8, 0.9]}).optimizer.param_groups[0]["betas"] == (0.8, 0.9)
    assert Course(1, optimizer="sgd", optimizer_args={"nesterov": False}).optimizer.defaults["nesterov"] is False
    with pytest.raises(UserError, match=r"--train.optimizer adam with .* Invalid beta parameter"):
        Course(1, optimizer_args={"betas": [2, 0.9]})


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


class Layered(nn.Module):
    """An embedding, a norm and three linear layers."""

    def __init__(self):
        super().__init__()
        self.words, self.norm = nn.Embedding(5, 4), nn.LayerNorm(4)
        self.features = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4))
        self.head = nn.Linear(4, 2)


def settings_of(network: nn.Module, setting: str, **config: object) -> dict[str, float]:
    """Return a setting of the optimizer for each parameter."""
    optimizer = make_optimizer(network, TrainConfig.model_validate({"lr": 0.1, **config}), CPU)
    values = {id(weight): group[setting] for group in optimizer.param_groups for weight in group["params"]}
    assert len(values) == sum(len(group["params"]) for group in optimizer.param_groups)
    return {name: values[id(weight)] for name, weight in network.named_parameters()}


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_biases_norms_and_embeddings_do_not_decay(optimizer):
    decays = settings_of(Layered(), "weight_decay", optimizer=optimizer, weight_decay=0.2)
    assert {name for name, decay in decays.items() if decay == 0.2} == {
        "features.0.weight",
        "features.2.weight",
        "head.weight",
    }
    assert {decay for decay in decays.values() if decay != 0.2} == {0.0}


def test_learning_rates_are_multiplied_by_the_factors_of_all_patterns_that_fit():
    rates = settings_of(Layered(), "lr", lr_factors={"features.*": 0.1, "*.bias": 2})
    assert rates["head.weight"] == 0.1 and rates["head.bias"] == pytest.approx(0.2)
    assert rates["features.0.weight"] == pytest.approx(0.01) and rates["features.2.bias"] == pytest.approx(0.02)


def test_each_layer_learns_by_a_share_of_the_next_ones_rate():
    rates = settings_of(Layered(), "lr", layer_decay=0.5, lr_factors={"words.*": 10})
    shares = {"head": 1, "features.2": 0.5, "features.0": 0.25, "norm": 0.125, "words": 0.625}
    for name, rate in rates.items():
        assert rate == pytest.approx(0.1 * shares[name.rpartition(".")[0]]), name


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_under_every_schedule_rates_keep_their_proportion(schedule):
    config = TrainConfig(lr=0.1, lr_factors={"head.*": 0.5}, schedule=schedule)
    network = Layered()
    optimizer = make_optimizer(network, config, CPU)
    course = make_schedule(optimizer, config, 20)
    for _ in range(20):
        rates = [group["lr"] for group in optimizer.param_groups]
        assert len(rates) == 2 and rates[1] == pytest.approx(rates[0] / 2, rel=1e-3)
        optimizer.step()
        course.step()


@pytest.mark.parametrize(
    ("factors", "words"),
    [
        ({"featuers.*": 0.1}, "no trained parameter fits 'featuers.*'. Did you mean features."),
        ({"head.*": "less"}, "'head.*' has 'less', not a number above 0"),
        ({"head.*": 0}, "not a number above 0"),
        ({"head.*": True}, "not a number above 0"),
    ],
)
def test_a_factor_that_fits_nothing_or_is_none_is_told_in_words(factors, words):
    with pytest.raises(UserError) as raised:
        settings_of(Layered(), "lr", lr_factors=factors)
    assert words in str(raised.value)


def clipped(kind: str, limit: float, scale: float = 1.0) -> tuple[nn.Module, list[torch.Tensor]]:
    """A network whose gradients were limited, and what these were."""
    network = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    rng = torch.Generator().manual_seed(0)
    for weight in network.parameters():
        weight.grad = scale * torch.randn(weight.shape, generator=rng)
    before = [weight.grad.clone() for weight in network.parameters()]
    last = frozenset(id(weight) for weight in network[1].parameters())
    clip_gradients(network.parameters(), kind, limit, last)
    return network, before


def test_a_norm_of_all_gradients_is_limited_and_their_direction_kept():
    network, before = clipped("norm", 0.5)
    after = torch.cat([weight.grad.flatten() for weight in network.parameters()])
    assert after.norm().item() == pytest.approx(0.5, rel=1e-4)
    whole = torch.cat([one.flatten() for one in before])
    torch.testing.assert_close(after / after.norm(), whole / whole.norm())


def test_each_element_of_a_gradient_is_limited():
    network, before = clipped("value", 0.5)
    for weight, one in zip(network.parameters(), before, strict=True):
        assert torch.equal(weight.grad, one.clamp(-0.5, 0.5))


def test_a_units_gradient_is_limited_to_a_share_of_its_weights_and_the_last_layer_is_left_alone():
    network, before = clipped("agc", 0.01)
    for unit in range(4):
        grad, weight = network[0].weight.grad[unit], network[0].weight[unit].detach()
        assert grad.norm().item() == pytest.approx(0.01 * weight.norm().item(), rel=1e-4)
        torch.testing.assert_close(grad / grad.norm(), before[0][unit] / before[0][unit].norm())
    assert torch.equal(network[1].weight.grad, before[2]) and torch.equal(network[1].bias.grad, before[3])


@pytest.mark.parametrize(("kind", "limit"), [("norm", 10.0), ("value", 10.0), ("agc", 1.0)])
def test_small_gradients_stay_as_they_are(kind, limit):
    network, before = clipped(kind, limit, scale=1e-5)
    for weight, one in zip(network.parameters(), before, strict=True):
        torch.testing.assert_close(weight.grad, one, rtol=1e-5, atol=0)
