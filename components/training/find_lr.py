"""Find a learning rate: raise it step by step until the loss explodes (Smith 2017)."""

import copy
import dataclasses
import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import torch
from torch import Tensor, nn

from components.config import TrainConfig
from components.data.augment import Augmentation
from components.data.batches import Samples
from components.errors import UserError
from components.files import write_text
from components.refs import DataRef
from components.training.fit import as_trained, batch_orders, known_batch_size
from components.training.losses import make_loss
from components.training.randomness import random_states, seed_all, set_random_states
from components.training.state import Training

LOWEST, HIGHEST, STEPS = 1e-7, 10.0, 150
SMOOTHING = 0.9
"""Share of the earlier losses in each smoothed one."""
EXPLODED = 3.0
"""Times the least smoothed loss: there is nothing to be learned beyond."""
BELOW_THE_LEAST = 10
"""The rate is taken so many times lower than where the loss was least: there it is about to explode."""


@dataclass(frozen=True)
class LrCurve:
    """What the loss was at each learning rate, smoothed, and which rate follows from that."""

    rates: tuple[float, ...]
    losses: tuple[float, ...]
    found: float


def find_lr(
    network: nn.Module, training: Samples, data: DataRef, config: TrainConfig, device: torch.device, seed: int
) -> LrCurve:
    """Train a copy of a network for a few steps at ever higher rates; network and random states are left as they were.

    Args:
        config: with its optimizer, batches, precision and augmentation; its own rate and schedule don't count.

    Raises:
        UserError: the loss falls at no rate.
    """
    states = random_states(device)
    try:
        rates, losses = zip(*_course(copy.deepcopy(network), training, data, config, device, seed), strict=True)
    finally:
        set_random_states(states, device)
    at = min(range(len(losses)), key=losses.__getitem__)
    # The first losses are what chance gives: one that is hardly less tells nothing.
    if losses[at] > 0.98 * max(losses[: max(1, at)]) or at == 0:
        raise UserError(
            f"The loss falls at no learning rate from {LOWEST:g} to {rates[-1]:.2g}: it is {losses[0]:.4g} at first "
            f"and {losses[at]:.4g} at best.",
            "Is the network sound? `torchmill check` looks. Or set --train.lr yourself.",
        )
    return LrCurve(rates, losses, float(f"{rates[at] / BELOW_THE_LEAST:.2g}"))


def _course(
    network: nn.Module, training: Samples, data: DataRef, config: TrainConfig, device: torch.device, seed: int
) -> Iterator[tuple[float, float]]:
    """Give each rate with the smoothed loss behind its step."""
    plain = {"lr": 1.0, "schedule": "constant", "schedule_args": {}, "warmup": 0.0, "ema": None}
    config = config.model_copy(update=plain)
    model = as_trained(network, config, device, data)
    objective = make_loss(config, data, training).to(device)
    training = training.to(device)
    state = Training(model, objective, data.task, config, device, STEPS)
    shares = [group["lr"] for group in state.optimizer.param_groups]
    seed_all(seed)
    state.train_mode()
    smoothed, least = 0.0, math.inf
    batches = _batches(training, Augmentation(config, data, seed), known_batch_size(config), seed)
    for step, (inputs, labels) in zip(range(STEPS), batches, strict=False):
        rate = LOWEST * (HIGHEST / LOWEST) ** (step / (STEPS - 1))
        for group, share in zip(state.optimizer.param_groups, shares, strict=True):
            group["lr"] = rate * share
        loss = state.step(inputs, labels)
        smoothed = SMOOTHING * smoothed + (1 - SMOOTHING) * loss.item()
        value = smoothed / (1 - SMOOTHING ** (step + 1))
        if not math.isfinite(value) or value > EXPLODED * least:
            return
        least = min(least, value)
        yield rate, value
        state.update(loss, len(inputs))


def _batches(training: Samples, augment: Augmentation, batch_size: int, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
    for epoch in count(1):
        for number, indices in enumerate(batch_orders(len(training), batch_size, seed, epoch)):
            yield augment(*training.take(indices), epoch, number, indices)


def kept_lr(
    folder: Path,
    network: nn.Module,
    training: Samples,
    data: DataRef,
    config: TrainConfig,
    device: torch.device,
    seed: int,
) -> LrCurve:
    """As ``find_lr``, once for a folder: a training that goes on does so at the rate that it began with."""
    file = folder / "lr.json"
    if not file.exists():
        curve = find_lr(network, training, data, config, device, seed)
        write_text(file, json.dumps(dataclasses.asdict(curve)))
    held = json.loads(file.read_text(encoding="utf-8"))
    return LrCurve(tuple(held["rates"]), tuple(held["losses"]), held["found"])
