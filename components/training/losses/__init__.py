"""Losses, one per file: a file with ``TASKS`` and ``make(task, *, …)`` is an option. All are means over samples."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from torchmill.components.data.samples import Samples
from torchmill.components.errors import UserError
from torchmill.components.initialization.build import outputs_of
from torchmill.components.refs import DataRef
from torchmill.components.training.config import LOSSES, TrainConfig
from torchmill.components.training.user_loss import user_loss

Criterion = Callable[[Tensor, Tensor], Tensor]


def losses_of(task: str) -> list[str]:
    """Return the losses that fit a task; the first is the one that ``auto`` stands for."""
    fitting = LOSSES.names(lambda option: task in option.constant("TASKS", ()))
    return sorted(fitting, key=lambda name: not LOSSES[name].constant("USUAL", False))


def loss_name(config: TrainConfig, data: DataRef) -> str:
    """Return the loss that a configuration means for a data set.

    Raises:
        UserError: it is for another task.
    """
    fitting = losses_of(data.task)
    if config.loss == "auto":
        return fitting[0]
    if ":" not in config.loss and config.loss not in fitting:
        raise UserError(
            f"--train.loss {config.loss} is not for {data.task}, which {data.name} is.",
            f"Take {' or '.join(fitting)}, or your own file.py:Class.",
        )
    return config.loss


def make_loss(config: TrainConfig, data: DataRef, training: Samples) -> "Objective":
    """Make the loss of a training.

    Args:
        training: samples that balanced class weights are counted from.

    Raises:
        UserError: it is for another task, or its arguments are wrong.
    """
    name, arguments = loss_name(config, data), dict(config.loss_args)
    if ":" in name:
        return Objective(user_loss(name, arguments), config.auxiliary_weight)
    try:
        LOSSES[name].check(arguments)
    except ValueError as error:
        message = str(error)
        raise UserError(f"--train.loss_args: {message}" + "." * (message[-1] not in ".?")) from None
    if "weight" in arguments:
        arguments["weight"] = class_weights(arguments["weight"], data, training)
    return Objective(LOSSES.load(name).make(data.task, **arguments), config.auxiliary_weight)


class Objective(nn.Module):
    """Mean loss of a batch, plus the weighted loss of each auxiliary output.

    GoogLeNet's authors weigh each by 0.3 (Szegedy et al. 2014).
    """

    def __init__(self, criterion: Criterion, auxiliary_weight: float = 0.3):
        super().__init__()
        self.criterion, self.auxiliary_weight = criterion, auxiliary_weight

    def forward(self, output: Any, labels: Tensor) -> Tensor:
        """Return a scalar.

        Args:
            output: outputs (N, K) of the network, or a tuple of the main and auxiliary ones.
            labels: classes (N,), or (N, K).
        """
        main, *auxiliary = outputs_of(output)
        loss = self.criterion(main, labels)
        for outputs in auxiliary:
            loss = loss + self.auxiliary_weight * self.criterion(outputs, labels)
        return loss


def class_weights(choice: object, data: DataRef, training: Samples) -> Tensor:
    """Return a weight per class or label. Weights of classes have mean 1 over the training samples.

    Args:
        choice: the numbers, or "balanced". Balanced weights of classes are inverse to their frequency (King & Zeng
            2001, scikit-learn's rule); that of a label is the ratio of samples without it to samples with it.
    """
    count = len(data.classes)
    labels = training.labels.cpu()
    if choice == "balanced":
        return data.task_object.class_weights(labels, count)
    if not isinstance(choice, list) or not all(isinstance(weight, int | float) and weight >= 0 for weight in choice):
        raise UserError('--train.loss_args weight: give a number for each class, or "balanced".')
    if len(choice) != count:
        raise UserError(f"--train.loss_args weight: {len(choice)} numbers for the {count} classes of {data.name}.")
    weights = torch.tensor(choice, dtype=torch.float32)
    mean = data.task_object.mean_weight(weights, labels)
    if not mean > 0:
        raise UserError("--train.loss_args weight: it is 0 for all classes that there are samples of.")
    return weights / mean
