"""Phases of a training step: each trains some of the parameters, with an optimizer and a schedule of its own."""

import contextlib
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from torchmill.components.errors import UserError, nearest
from torchmill.components.initialization.name_patterns import matching
from torchmill.components.training.config import TrainConfig
from torchmill.components.training.learning import PhasePlan
from torchmill.components.training.optimizers import known_lr, make_optimizer
from torchmill.components.training.schedules import make_schedule


@dataclass(frozen=True, eq=False)
class TrainedPhase:
    """Parameters with their optimizer and schedule."""

    name: str
    """Name of the phase; empty of the only one."""
    every: int
    """Batches of an epoch from one such phase to the next."""
    parameters: Sequence[nn.Parameter]
    others: Sequence[nn.Parameter]
    """Parameters that other phases train."""
    optimizer: Optimizer
    schedule: LRScheduler

    @contextlib.contextmanager
    def alone(self) -> Generator[None]:
        """Compute gradients of this phase's parameters alone; they still flow through those of other phases."""
        for weight in self.others:
            weight.requires_grad_(False)
        try:
            yield
        finally:
            for weight in self.others:
                weight.requires_grad_(True)

    def as_dict(self) -> dict[str, Any]:
        return {"optimizer": self.optimizer.state_dict(), "schedule": self.schedule.state_dict()}

    def restore(self, state: dict[str, Any]) -> None:
        """Load the state that ``as_dict`` returned."""
        self.optimizer.load_state_dict(state["optimizer"])
        self.schedule.load_state_dict(state["schedule"])


def make_phases(
    network: nn.Module, plans: Sequence[PhasePlan], config: TrainConfig, device: torch.device, steps: int
) -> list[TrainedPhase]:
    """Make the phases of a training.

    Args:
        steps: batches of the whole training.

    Raises:
        UserError: a pattern matches no parameter, or several phases train the same one.
    """
    if len(plans) == 1 and not plans[0].parameters:
        optimizer = make_optimizer(network, config, device)
        parameters, (plan,) = list(network.parameters()), plans
        return [TrainedPhase(plan.name, 1, parameters, (), optimizer, make_schedule(optimizer, config, steps))]
    named = {name: weight for name, weight in network.named_parameters() if weight.requires_grad}
    chosen: dict[str, str] = {}
    for plan in plans:
        names = matching(plan.parameters, named)
        if not names:
            raise UserError(
                f"Phase {plan.name}: no trained parameter fits '{plan.parameters}'.", nearest(plan.parameters, named)
            )
        for name in names:
            if name in chosen:
                raise UserError(f"Phases {chosen[name]} and {plan.name} both train {name}.", "Change their patterns.")
            chosen[name] = plan.name
    if idle := [name for name in named if name not in chosen]:
        raise UserError(f"No phase trains {idle[0]}{f' and {len(idle) - 1} more' if idle[1:] else ''}.")
    phases = []
    for plan in plans:
        names = frozenset(name for name, phase in chosen.items() if phase == plan.name)
        settings = config.model_copy(update={"lr": known_lr(config) * plan.lr_factor})
        optimizer = make_optimizer(network, settings, device, names)
        epoch_steps = -(-steps // config.epochs)
        schedule = make_schedule(optimizer, settings, config.epochs * -(-epoch_steps // plan.every))
        own = [weight for name, weight in named.items() if name in names]
        others = [weight for name, weight in named.items() if name not in names]
        phases.append(TrainedPhase(plan.name, plan.every, own, others, optimizer, schedule))
    return phases
