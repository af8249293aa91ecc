"""A training that was stopped or killed resumes as if nothing had happened."""

import contextlib
import dataclasses
import math
import random
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from tests.components.training.small_training import (
    STEPS,
    Plain,
    Small,
    checkpoints_in,
    make,
    newest,
    senseless,
    stop_after,
    train,
)
from tests.slow import slow_but
from tests.toy import made, toy_data, toy_numbers, toy_tokens
from torchmill.components.training.fit import Stopped
from torchmill.components.training.progress import EpochResult


class Throwing(Small):
    """Draws from Python's and NumPy's generators."""

    def forward(self, x):
        if self.training:
            x = x * random.uniform(0.5, 1.5) + np.random.normal(0, 0.1)
        return super().forward(x)


class Remembering(Plain):
    """Has a buffer that decides its outputs and is not persistent."""

    def __init__(self):
        super().__init__()
        self.register_buffer("mean", torch.zeros(24), persistent=False)

    def forward(self, x):
        x = self.hidden(x.flatten(1))
        if self.training:
            self.mean.lerp_(x.detach().mean(0), 0.1)
        return self.out((x - self.mean).relu())


class Tied(nn.Module):
    """Shares the weights of encoder and decoder."""

    def __init__(self):
        super().__init__()
        self.encode, self.decode, self.out = nn.Linear(784, 16), nn.Linear(784, 16, bias=False), nn.Linear(16, 10)
        self.decode.weight = self.encode.weight

    def forward(self, x):
        code = self.encode(x.flatten(1)).relu()
        return self.out(self.decode(code @ self.decode.weight).relu())


class Looking(Plain):
    """Stores its last hidden values in a buffer, whose shape follows the batch."""

    def __init__(self):
        super().__init__()
        self.register_buffer("last", torch.zeros(1, 24), persistent=False)

    def forward(self, x):
        hidden = self.hidden(x.flatten(1)).relu()
        self.last = hidden.detach()
        return self.out(hidden)


class Killed(BaseException):
    """Stands for a killed process: no code at its end runs."""


def killed_after(steps: int) -> Callable[[], bool]:
    stop = stop_after(steps)

    def kill() -> bool:
        if stop():
            raise Killed
        return False

    return kill


def interrupted(kind, data, folder: Path, interruptions: Iterable[Callable[[], bool]], **config) -> list[EpochResult]:
    """Train to the end; each attempt has a new network and other rng states, as a new process has."""
    for number, should_stop in enumerate([*interruptions, stop_after(math.inf)]):
        for seed in (torch.manual_seed, random.seed, np.random.seed):
            seed(1000 + number)
        epochs = train(make(kind), data, folder, resume=True, should_stop=should_stop, **config)
        with contextlib.suppress(Stopped, Killed):
            return list(epochs)
    raise AssertionError("the last attempt was stopped")


def results(folder: Path, history: list[EpochResult]) -> tuple[bytes, list[EpochResult]]:
    """Return the weights' bytes and the epochs, which must match to the last bit."""
    same = [dataclasses.replace(epoch, samples_per_second=0.0) for epoch in history]
    return (folder / "best.safetensors").read_bytes(), same


_undisturbed: dict[tuple[Any, ...], tuple[bytes, list[EpochResult]]] = {}
"""Results of trainings that several tests compare with."""


def undisturbed(kind, data, folder: Path, **config) -> tuple[bytes, list[EpochResult]]:
    key = (kind, data.folder, *sorted((name, repr(value)) for name, value in config.items()))
    if key not in _undisturbed:
        _undisturbed[key] = results(folder, list(train(make(kind), data, folder, **config)))
    return _undisturbed[key]


MANY = {"epochs": 4, "patience": 2, "augment": "shift", "ema": 0.9}


@pytest.mark.parametrize(
    ("kind", "config"),
    [
        (Small, {**MANY, "schedule": "one_cycle"}),
        pytest.param(
            Small,
            {**MANY, "schedule": "cosine", "optimizer": "sgd", "momentum": 0.9, "lr": 0.01},
            marks=pytest.mark.slow,
        ),
        pytest.param(Small, {**MANY, "schedule": "step", "optimizer": "rmsprop", "ema": None}, marks=pytest.mark.slow),
        pytest.param(
            Small,
            {**MANY, "schedule": "constant", "optimizer": "adamw", "augment": "none", "channels_last": "off"},
            marks=pytest.mark.slow,
        ),
        pytest.param(
            Small,
            {**MANY, "schedule": "linear", "optimizer": "adadelta", "lr": 1.0, "warmup": 0.2},
            marks=pytest.mark.slow,
        ),
        (Small, {**MANY, "schedule": "plateau", "schedule_args": {"patience": 0}, "optimizer": "muon", "lr": 0.02}),
        (Small, {**MANY, "precision": "fp16", "clip": "norm:1"}),
        pytest.param(Small, {**MANY, "precision": "bf16"}, marks=pytest.mark.slow),
        (Throwing, MANY),
        (Remembering, {"epochs": 4}),
        (Tied, MANY),
    ],
    ids=[
        "adam",
        "sgd",
        "rmsprop",
        "adamw",
        "adadelta",
        "muon",
        "fp16",
        "bf16",
        "other_rng",
        "unsaved_buffer",
        "tied_weights",
    ],
)
def test_a_training_stopped_many_times_gives_the_same_to_the_last_bit(toy, tmp_path, kind, config):
    expected = undisturbed(kind, toy, tmp_path / "undisturbed", **config)
    rng = random.Random(len(config))
    stops = [stop_after(rng.randint(1, 11)) for _ in range(15)]
    history = interrupted(kind, toy, tmp_path / "stopped", stops, **config)
    assert len(history) >= 3
    assert results(tmp_path / "stopped", history) == expected


@pytest.mark.parametrize(
    ("draw", "name", "config"),
    [
        (toy_tokens, "rnn", {"loss": "focal", "loss_args": {"weight": "balanced"}}),
        (partial(toy_numbers, task="multilabel"), "mlp", {"ema": 0.9}),
        (partial(toy_numbers, task="regression", scales=(1e-3, 1, 1e4)), "mlp", {"mixup": 0.4, "clip": "norm:1"}),
        (partial(toy_data, train=200), "mlp", {"mixup": 0.4, "cutmix": 1.0, "augment": "flip,rotate,erase"}),
    ],
    ids=["tokens", "labels", "targets", "mixed_images"],
)
def test_training_on_any_kind_of_data_resumes_bit_for_bit(tmp_path, draw, name, config):
    data = draw(tmp_path)
    kind = partial(made, name, data, **({"hidden": 16} if name == "rnn" else {"hidden": (16,)}))
    expected = undisturbed(kind, data, tmp_path / "undisturbed", epochs=3, **config)
    stops = [stop_after(5), stop_after(3), stop_after(9)]
    history = interrupted(kind, data, tmp_path / "stopped", stops, epochs=3, **config)
    assert len(history) == 3 and results(tmp_path / "stopped", history) == expected


@pytest.mark.parametrize(
    ("kind", "config", "asked"),
    [
        (Remembering, {"epochs": 2, "ema": 0.9}, STEPS + 5),
        (Looking, {}, 5),
        (Looking, {"epochs": 2, "ema": 0.9}, STEPS + 5),
    ],
    ids=["ema_of_buffer", "resized_buffer", "ema_of_resized_buffer"],
)
def test_a_buffer_that_is_not_persistent_is_restored(toy, tmp_path, kind, config, asked):
    expected = undisturbed(kind, toy, tmp_path / "undisturbed", **config)
    history = interrupted(kind, toy, tmp_path / "stopped", [stop_after(asked)], **config)
    assert results(tmp_path / "stopped", history) == expected


def test_a_training_killed_between_checkpoints_repeats_the_steps_since_the_last_one(toy, tmp_path):
    config = {**MANY, "checkpoint_seconds": 3600}  # checkpoints at the ends of epochs only
    expected = undisturbed(Small, toy, tmp_path / "undisturbed", **config)
    history = interrupted(
        Small, toy, tmp_path / "killed", [killed_after(steps) for steps in (3, 2 * STEPS, 9)], **config
    )
    assert results(tmp_path / "killed", history) == expected


def test_a_training_with_a_checkpoint_per_step_loses_one_step_when_killed(toy, tmp_path):
    config = {"epochs": 2, "augment": "shift", "checkpoint_seconds": 0}
    expected = undisturbed(Small, toy, tmp_path / "undisturbed", epochs=2, augment="shift")
    with pytest.raises(Killed):
        list(train(make(), toy, tmp_path / "killed", should_stop=killed_after(8), **config))
    assert (newest(tmp_path / "killed")["epoch"], newest(tmp_path / "killed")["batch"]) == (1, 7)
    history = interrupted(Small, toy, tmp_path / "killed", [killed_after(steps) for steps in (5, 11)], **config)
    assert results(tmp_path / "killed", history) == expected


def test_a_damaged_newest_checkpoint_costs_the_steps_since_the_one_before(toy, tmp_path, caplog):
    expected = undisturbed(Small, toy, tmp_path / "undisturbed", **MANY)
    with pytest.raises(Killed):
        list(train(make(), toy, tmp_path, should_stop=killed_after(20), **{**MANY, "checkpoint_seconds": 0}))
    last = max((tmp_path / "checkpoints").glob("*.pt"))
    last.write_bytes(last.read_bytes()[:-100])
    assert newest(tmp_path)["batch"] == 2 and last.name in caplog.text
    assert results(tmp_path, interrupted(Small, toy, tmp_path, [], **MANY)) == expected


@pytest.mark.parametrize("asked", slow_but((STEPS, STEPS + 1), range(STEPS - 1, STEPS + 3)))
def test_a_stop_around_the_end_of_an_epoch_changes_nothing(toy, tmp_path, asked):
    config = {"epochs": 3, "patience": 2}
    expected = undisturbed(Small, toy, tmp_path / "undisturbed", **config)
    assert results(tmp_path, interrupted(Small, toy, tmp_path, [stop_after(asked)], **config)) == expected


@pytest.mark.parametrize(
    ("asked", "place"), [(STEPS, (1, STEPS)), (STEPS + 1, (2, 0)), (STEPS + 2, (2, 1)), (2 * STEPS + 2, (3, 0))]
)
def test_a_stop_leaves_a_checkpoint_of_the_last_step(toy, tmp_path, asked, place):
    with pytest.raises(Stopped):
        list(train(make(), toy, tmp_path, epochs=3, should_stop=stop_after(asked)))
    assert (newest(tmp_path)["epoch"], newest(tmp_path)["batch"]) == place


def test_an_epoch_that_ends_with_a_stop_is_yielded_first(toy, tmp_path):
    epochs = train(make(), toy, tmp_path, epochs=2, should_stop=stop_after(STEPS + 1))
    assert next(epochs).epoch == 1
    with pytest.raises(Stopped):
        next(epochs)


def test_a_stop_after_the_last_epoch_is_ignored(toy, tmp_path):
    (epoch,) = train(make(), toy, tmp_path, should_stop=stop_after(STEPS + 1))
    assert epoch.is_last and (tmp_path / "best.safetensors").exists()


def test_after_a_stop_at_the_last_step_only_the_validation_runs(toy, tmp_path):
    expected = undisturbed(Small, toy, tmp_path / "undisturbed")
    with pytest.raises(Stopped):
        list(train(make(), toy, tmp_path, should_stop=stop_after(STEPS)))
    network, counted = counting(make())
    history = list(train(network, toy, tmp_path, resume=True))
    assert not counted and results(tmp_path, history) == expected


def test_after_a_kill_before_the_last_file_only_that_file_is_written(toy, tmp_path):
    expected = undisturbed(Small, toy, tmp_path / "undisturbed", **MANY)
    list(train(make(), toy, tmp_path, **MANY))
    (tmp_path / "best.safetensors").unlink()
    before = sorted((tmp_path / "checkpoints").iterdir())
    network, counted = counting(make())
    history = list(train(network, toy, tmp_path, resume=True, **MANY))
    assert not counted and results(tmp_path, history) == expected
    assert sorted((tmp_path / "checkpoints").iterdir()) == before


def test_patience_ends_at_the_same_epoch_after_interruptions(toy, tmp_path):
    config = {"splits": senseless(toy), "epochs": 40, "patience": 3, "schedule": "constant"}
    expected = undisturbed(Small, toy, tmp_path / "undisturbed", **config)
    stops = [stop_after(steps) for steps in (3, 8, 1, 2, 4)]
    history = interrupted(Small, toy, tmp_path / "stopped", stops, **config)
    assert len(history) < 40 and results(tmp_path / "stopped", history) == expected
    assert interrupted(Small, toy, tmp_path / "stopped", [], **config) == history


def test_resuming_replays_no_step(toy, tmp_path):
    with pytest.raises(Stopped):
        list(train(make(), toy, tmp_path, epochs=2, augment="shift", should_stop=stop_after(STEPS + 1 + 6)))
    network, counted = counting(make())
    list(train(network, toy, tmp_path, resume=True, epochs=2, augment="shift"))
    assert len(counted) == STEPS - 6


def test_a_resumed_training_yields_earlier_epochs_first(toy, tmp_path):
    epochs = train(make(), toy, tmp_path, epochs=3, checkpoint_seconds=0)
    behind = [next(epochs), next(epochs)]
    epochs.close()
    again = train(make(), toy, tmp_path, resume=True, epochs=3)
    assert [next(again), next(again)] == behind


def counting(network: nn.Module) -> tuple[nn.Module, list[int]]:
    """Record the number of samples of each pass in train mode."""
    counted = []
    network.register_forward_pre_hook(lambda layer, inputs: counted.append(len(inputs[0])) if layer.training else None)
    return network, counted


def test_steps_before_an_interruption_count_towards_the_speed(toy, tmp_path):
    with pytest.raises(Stopped):
        list(train(make(), toy, tmp_path, should_stop=stop_after(9)))
    spent = newest(tmp_path)["seconds"]
    (epoch,) = train(make(), toy, tmp_path, resume=True)
    assert 0 < spent < 480 / epoch.samples_per_second
    assert checkpoints_in(tmp_path).tidy().exists()
