"""Learning rate search: raise the rate step by step until the loss explodes (Smith 2017)."""

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from torchmill.components.errors import UserError
from torchmill.components.files import write_text
from torchmill.components.state_files import read_json
from torchmill.components.training.setup import TrainingSetup
from torchmill.components.training.state import TrainingState
from torchmill.components.training.tuning.trial_run import Batches, trial_run

LOWEST, HIGHEST, STEPS = 1e-7, 10.0, 150
SMOOTHING = 0.9
"""Weight of the earlier losses in each smoothed loss."""
EXPLODED = 3.0
"""Ratio to the lowest smoothed loss at which the search ends."""
SAFETY_FACTOR = 10
"""Ratio of the rate with the lowest loss, where the loss is about to explode, to the rate that we take."""


@dataclass(frozen=True)
class LrCurve:
    """Smoothed loss at each learning rate, and the learning rate to take."""

    rates: tuple[float, ...]
    losses: tuple[float, ...]
    lr: float


def find_lr(setup: TrainingSetup) -> LrCurve:
    """Train a copy of the network for a few steps at rising rates; network and rng states don't change.

    Optimizer, batches, precision and augmentation are the setup's; its learning rate and schedule are ignored.

    Raises:
        UserError: the loss falls at no rate.

    Example:
        >>> curve = find_lr(setup)  # doctest: +SKIP
        >>> setup.config.model_copy(update={"lr": curve.lr})  # doctest: +SKIP
    """
    plain = {"lr": 1.0, "schedule": "constant", "schedule_args": {}, "warmup": 0.0, "ema": None}
    setup = replace(setup, config=setup.config.model_copy(update=plain))
    with trial_run(setup, STEPS) as (state, batches):
        rates, losses = zip(*_raise_rate(state, batches), strict=True)
    lowest = min(range(len(losses)), key=losses.__getitem__)
    # The first losses are those of an untrained network: a loss that is hardly lower shows no learning.
    if losses[lowest] > 0.98 * max(losses[: max(1, lowest)]) or lowest == 0:
        raise UserError(
            f"The loss falls at no learning rate from {LOWEST:g} to {rates[-1]:.2g}: it is {losses[0]:.4g} at first "
            f"and {losses[lowest]:.4g} at best.",
            "Check the network with `torchmill check`, or set --train.lr yourself.",
        )
    return LrCurve(rates, losses, float(f"{rates[lowest] / SAFETY_FACTOR:.2g}"))


def _raise_rate(state: TrainingState, batches: Batches) -> Iterator[tuple[float, float]]:
    """Train at rising rates; yield each rate with the smoothed loss."""
    factors = [group["lr"] for group in state.optimizer.param_groups]
    average, lowest = 0.0, math.inf
    for step, batch in zip(range(STEPS), batches, strict=False):
        rate = LOWEST * (HIGHEST / LOWEST) ** (step / (STEPS - 1))
        for group, factor in zip(state.optimizer.param_groups, factors, strict=True):
            group["lr"] = rate * factor
        loss = state.step(batch)
        average = SMOOTHING * average + (1 - SMOOTHING) * loss.item()
        smoothed = average / (1 - SMOOTHING ** (step + 1))  # corrects the bias of the start at 0
        if not math.isfinite(smoothed) or smoothed > EXPLODED * lowest:
            return
        lowest = min(lowest, smoothed)
        yield rate, smoothed
        state.update(loss, state.learning.size(batch))


@dataclass(frozen=True)
class SavedCurve:
    """A curve as ``lr.json`` holds it."""

    rates: tuple[float, ...]
    losses: tuple[float, ...]
    found: float


def cached_lr(folder: Path, setup: TrainingSetup) -> LrCurve:
    """Return the curve saved in ``folder``, or search and save it: a resumed training keeps its learning rate."""
    file = folder / "lr.json"
    saved = read_json(file, SavedCurve)
    if saved:
        return LrCurve(saved.rates, saved.losses, saved.found)
    curve = find_lr(setup)
    write_text(file, json.dumps({"rates": curve.rates, "losses": curve.losses, "found": curve.lr}))
    return curve
