"""Find a learning rate: raise it step by step until the loss explodes (Smith 2017)."""

import dataclasses
import json
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from torchmill.components.errors import UserError
from torchmill.components.files import write_text
from torchmill.components.training.setup import TrainingSetup
from torchmill.components.training.state import Training
from torchmill.components.training.tuning.trial_run import Batches, trial_run

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


def find_lr(setup: TrainingSetup) -> LrCurve:
    """Train a copy of the network for a few steps at rising rates; the network and the random states don't change.

    Optimizer, batches, precision and augmentation are the setup's; its learning rate and schedule don't count.

    Raises:
        UserError: the loss falls at no rate.
    """
    plain = {"lr": 1.0, "schedule": "constant", "schedule_args": {}, "warmup": 0.0, "ema": None}
    setup = replace(setup, config=setup.config.model_copy(update=plain))
    with trial_run(setup, STEPS) as (state, batches):
        rates, losses = zip(*_course(state, batches), strict=True)
    at = min(range(len(losses)), key=losses.__getitem__)
    # The first losses are what chance gives: one that is hardly less tells nothing.
    if losses[at] > 0.98 * max(losses[: max(1, at)]) or at == 0:
        raise UserError(
            f"The loss falls at no learning rate from {LOWEST:g} to {rates[-1]:.2g}: it is {losses[0]:.4g} at first "
            f"and {losses[at]:.4g} at best.",
            "Is the network sound? `torchmill check` looks. Or set --train.lr yourself.",
        )
    return LrCurve(rates, losses, float(f"{rates[at] / BELOW_THE_LEAST:.2g}"))


def _course(state: Training, batches: Batches) -> Iterator[tuple[float, float]]:
    """Give each rate with the smoothed loss behind its step."""
    shares = [group["lr"] for group in state.optimizer.param_groups]
    smoothed, least = 0.0, math.inf
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


def cached_lr(folder: Path, setup: TrainingSetup) -> LrCurve:
    """Return the learning rate that was found for this folder, or find it: a resumed training keeps its rate."""
    file = folder / "lr.json"
    if not file.exists():
        curve = find_lr(setup)
        write_text(file, json.dumps(dataclasses.asdict(curve)))
    held = json.loads(file.read_text(encoding="utf-8"))
    return LrCurve(tuple(held["rates"]), tuple(held["losses"]), held["found"])
