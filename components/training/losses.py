"""Losses by name: means over samples, auxiliary outputs included."""

import inspect
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from torchmill.components.data.samples import Samples
from torchmill.components.errors import UserError, nearest
from torchmill.components.initialization.build import find, outputs_of
from torchmill.components.refs import DataRef, Task
from torchmill.components.training.config import TrainConfig
from torchmill.components.user_code.importing import first_hand

LOSSES: dict[Task, tuple[str, ...]] = {
    "classification": ("cross_entropy", "focal"),
    "multilabel": ("bce", "focal"),
    "regression": ("mse", "huber"),
}
"""Those that fit a task; the first is the one that ``auto`` means."""

Criterion = Callable[[Tensor, Tensor], Tensor]


def loss_name(config: TrainConfig, data: DataRef) -> str:
    """The loss that a configuration means for a data set.

    Raises:
        UserError: it is for another task.
    """
    fitting = LOSSES[data.task]
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
        training: what class weights are balanced by.

    Raises:
        UserError: it is for another task, or takes no such argument.
    """
    name, arguments = loss_name(config, data), dict(config.loss_args)
    if ":" in name:
        return Objective(_own(name, arguments), config.auxiliary_weight)
    makers = {
        "cross_entropy": cross_entropy,
        "focal": focal if data.task == "classification" else binary_focal,
        "bce": bce,
        "mse": mse,
        "huber": huber,
    }
    accepted = inspect.signature(makers[name]).parameters
    for argument in arguments:
        if argument not in accepted:
            raise UserError(f"The loss {name} takes no '{argument}'.", nearest(argument, accepted) or "It takes none.")
    if "weight" in arguments:
        arguments["weight"] = class_weights(arguments["weight"], data, training)
    try:
        return Objective(makers[name](**arguments), config.auxiliary_weight)
    except (TypeError, ValueError) as error:
        raise UserError(f"--train.loss_args {config.loss_args}: {error}.") from None


class Objective(nn.Module):
    """Mean loss of a batch; that of auxiliary outputs counts less.

    GoogLeNet's authors weigh each by 0.3 (Szegedy et al. 2014).
    """

    def __init__(self, criterion: Criterion, auxiliary_weight: float = 0.3):
        super().__init__()
        self.criterion, self.auxiliary_weight = criterion, auxiliary_weight

    def forward(self, output: Any, labels: Tensor) -> Tensor:
        """Give a scalar for what the network gave, (N, K) or a tuple of such, and labels: (N,) classes or (N, K)."""
        main, *auxiliary = outputs_of(output)
        loss = self.criterion(main, labels)
        for one in auxiliary:
            loss = loss + self.auxiliary_weight * self.criterion(one, labels)
        return loss


def class_weights(asked: object, data: DataRef, training: Samples) -> Tensor:
    """Give a weight per class or label, of mean 1 over the training samples for classes.

    Args:
        asked: the numbers, or "balanced": inverse to the classes' frequency (King & Zeng 2001, scikit-learn's rule);
            of labels, how many times more samples lack it than have it.
    """
    count = len(data.classes)
    labels = training.labels.cpu()
    if asked == "balanced":
        if data.task == "classification":
            return len(labels) / (count * torch.bincount(labels, minlength=count).clamp(min=1)).float()
        positive = labels.sum(0)
        return (len(labels) - positive) / positive.clamp(min=1)
    if not isinstance(asked, list) or not all(isinstance(one, int | float) and one >= 0 for one in asked):
        raise UserError('--train.loss_args weight: give a number for each class, or "balanced".')
    if len(asked) != count:
        raise UserError(f"--train.loss_args weight: {len(asked)} numbers for the {count} classes of {data.name}.")
    weights = torch.tensor(asked, dtype=torch.float32)
    if data.task != "classification":
        return weights
    mean = weights[labels].mean()
    if not mean > 0:
        raise UserError("--train.loss_args weight: it is 0 for all classes that there are samples of.")
    return weights / mean


def cross_entropy(weight: Tensor | None = None, label_smoothing: float = 0.0) -> Criterion:
    """Cross-entropy of logits (N, K) with classes (N,), or with shares of classes (N, K), nats."""
    _in_range("label_smoothing", label_smoothing, 0, 1)

    def loss(logits: Tensor, labels: Tensor) -> Tensor:
        if weight is None:
            return F.cross_entropy(logits, labels, label_smoothing=label_smoothing)
        # Not torch's mean, which divides by the batch's own weights: parts of a batch must add up to the whole.
        held = weight.to(logits)
        if labels.is_floating_point():
            return F.cross_entropy(logits, labels, held, label_smoothing=label_smoothing)
        return F.cross_entropy(logits, labels, held, label_smoothing=label_smoothing, reduction="sum") / len(labels)

    return loss


def focal(gamma: float = 2.0, weight: Tensor | None = None) -> Criterion:
    """Cross-entropy in which what is already right counts less: times (1 - p)^gamma (Lin et al. 2017)."""
    _in_range("gamma", gamma, 0, 100)

    def loss(logits: Tensor, labels: Tensor) -> Tensor:
        logs = F.log_softmax(logits, 1)
        shares = labels if labels.is_floating_point() else F.one_hot(labels, logits.shape[1]).to(logs)
        each = -shares * (1 - logs.exp()) ** gamma * logs
        return (each if weight is None else each * weight.to(logits)).sum(1).mean()

    return loss


def bce(weight: Tensor | None = None, label_smoothing: float = 0.0) -> Criterion:
    """Binary cross-entropy of logits (N, K) with labels 0 and 1 (N, K), nats; the weight is that of the ones."""
    _in_range("label_smoothing", label_smoothing, 0, 1)

    def loss(logits: Tensor, labels: Tensor) -> Tensor:
        smooth = labels.to(logits) * (1 - label_smoothing) + label_smoothing / 2
        return F.binary_cross_entropy_with_logits(
            logits, smooth, pos_weight=None if weight is None else weight.to(logits)
        )

    return loss


def binary_focal(gamma: float = 2.0, weight: Tensor | None = None) -> Criterion:
    """The focal loss for labels 0 and 1 (N, K)."""
    _in_range("gamma", gamma, 0, 100)

    def loss(logits: Tensor, labels: Tensor) -> Tensor:
        labels = labels.to(logits)
        right = torch.sigmoid(logits) * labels + torch.sigmoid(-logits) * (1 - labels)
        held = None if weight is None else weight.to(logits)
        each = F.binary_cross_entropy_with_logits(logits, labels, pos_weight=held, reduction="none")
        return ((1 - right) ** gamma * each).mean()

    return loss


def mse() -> Criterion:
    """Mean squared error of standardised targets (N, K)."""
    return F.mse_loss


def huber(delta: float = 1.0) -> Criterion:
    """Squared up to ``delta`` standard deviations of the target, linear beyond (Huber 1964)."""
    _in_range("delta", delta, 1e-9, 1e9)
    return lambda outputs, targets: F.huber_loss(outputs, targets, delta=delta)


def _in_range(name: str, value: object, low: float, high: float) -> None:
    if not isinstance(value, int | float) or isinstance(value, bool) or not low <= value <= high:
        raise ValueError(f"{name} is to be a number from {low:g} to {high:g}, not {value!r}")


def _own(reference: str, arguments: Mapping[str, object]) -> Criterion:
    """Make the user's own loss: a class is made with the arguments, a function gets them with each call."""
    found: Callable[..., Any] = find(reference)
    try:
        criterion = found(**arguments) if inspect.isclass(found) else partial(found, **arguments)
    except Exception as error:  # the user's constructor can fail in any way
        raise UserError(f"The loss {reference} fails: {first_hand(error)}") from error

    return _Own(reference, criterion)


class _Own(nn.Module):
    """The user's own loss. A module's buffers go to the device with it."""

    def __init__(self, reference: str, criterion: Callable[[Tensor, Tensor], object]):
        super().__init__()
        self.reference, self.criterion = reference, criterion

    def forward(self, outputs: Tensor, labels: Tensor) -> Tensor:
        try:
            value = self.criterion(outputs, labels)
        except Exception as error:  # the user's loss can fail in any way
            shapes = f"outputs {tuple(outputs.shape)} and labels {tuple(labels.shape)}"
            if isinstance(error, torch.OutOfMemoryError | MemoryError):
                raise
            raise UserError(f"The loss {self.reference} fails on {shapes}: {first_hand(error)}") from error
        if not isinstance(value, Tensor) or value.numel() != 1:
            given = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
            raise UserError(
                f"The loss {self.reference} gives {given}; expected one number.", "Take the mean over samples."
            )
        return value.reshape(())


def plain_loss(task: Task) -> Criterion:
    """What results are told in: cross-entropy (nats) of classes and labels, squared error of standardised targets."""
    return {"classification": cross_entropy(), "multilabel": bce(), "regression": mse()}[task]


def plain_losses(task: Task, outputs: Tensor, labels: Tensor) -> Tensor:
    """Give ``plain_loss`` of each sample alone, (N,)."""
    match task:
        case "classification":
            return F.cross_entropy(outputs, labels, reduction="none")
        case "multilabel":
            return F.binary_cross_entropy_with_logits(outputs, labels.to(outputs), reduction="none").mean(1)
        case _:
            return F.mse_loss(outputs, labels, reduction="none").mean(1)


def score_sum(task: Task, outputs: Tensor, labels: Tensor) -> Tensor:
    """Sum over samples of what a task is judged by: 1 for a right answer.

    Args:
        outputs: (N, K).
        labels: as the loss takes them; shares of classes count for the largest.
    """
    match task:
        case "classification":
            truth = labels.argmax(1) if labels.is_floating_point() else labels
            return (outputs.argmax(1) == truth).sum()
        case "multilabel":
            return ((outputs > 0) == (labels > 0.5)).float().mean(1).sum()
        case _:
            return (1 - (outputs - labels).square().mean(1)).sum()
