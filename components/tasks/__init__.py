"""Tasks that a network is trained for: one file per task, found by its name. Looking names up imports no task."""

import functools
import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, cast

from torchmill.components.errors import UserError, nearest
from torchmill.components.settings.options import Option, Room
from torchmill.components.tasks._label_task import Labels, LabelTask, Mistake, Scores, Statistics
from torchmill.components.wording import percent, points

if TYPE_CHECKING:
    from torch import Tensor, nn

    from torchmill.components.batches.batch import Batch

__all__ = ["LabelTask", "Labels", "Mistake", "Scores", "Statistics", "Task"]


class Task(Protocol):
    """Purpose of a training over batches of named fields: a plain class, built-in or in a user's file.

    Batches hold inputs as networks take them (standardized), and targets as the data has them. ``network(batch)``
    passes the inputs that the network's ``forward`` names, or the only one; ``network.encoder(batch["image"])`` calls
    a part of it.

    A task may have more members:

    - ``fits(target)``, static: why the only target of a data set may be meant for the task, empty if it is not; such a
      task needs no name on the command line
    - ``outputs``: number of outputs that a network's constructor gets as ``num_classes``
    - ``main_measure``: name of the measure by which networks are compared; the loss without one
    - ``better``: "higher" (the default of a main measure) or "lower"
    - ``block``: samples follow each other in time, and intervals draw blocks of at least this many
    - ``noise``: random inputs, standard normal, by name with the shape of a sample: ``{"noise": (64,)}``
    - ``views``: number of differently augmented versions of each training batch, in ``batch.views``
    - ``phases``: phases of each step, with the parameters that they train (see ``components.training.phases``)
    - ``summarize(means)``: measures from the means of the statistics over samples; by default the means themselves
    - ``draw(network, batch, folder)``: writes pictures of some test samples, and returns their paths

    Example:
        >>> class Denoising:
        ...     main_measure, better = "error", "lower"
        ...
        ...     def loss(self, network, batch):
        ...         noisy = batch["image"] + torch.randn_like(batch["image"])
        ...         return (network(noisy) - batch["image"]).square().mean()
        ...
        ...     def predict(self, network, inputs):
        ...         return {"image": network(inputs["image"])}
        ...
        ...     def measure(self, answer, batch):
        ...         return {"error": (answer["image"] - batch["image"]).square().mean((1, 2, 3))}
    """

    def loss(self, network: "nn.Module", batch: "Batch") -> "Tensor | Mapping[str, Tensor]":
        """Return the mean loss of a batch: a scalar, or scalars by name, whose sum is the loss."""
        ...

    def predict(self, network: "nn.Module", inputs: "Batch") -> "Mapping[str, Tensor]":
        """Return the answers (N, …) by name: the outputs of the ONNX model. It reads inputs alone."""
        ...

    def measure(self, answer: "Mapping[str, Tensor]", batch: "Batch") -> "Mapping[str, Tensor]":
        """Return statistics of each sample, (N, …), by name."""
        ...


TASKS = Room(Path(__file__).parent)
DEFAULT = "classification"
"""Task of data sets and ONNX files that name none."""


def _has(method: str, option: Option) -> bool:
    return any(name.endswith(f".{method}") for name in option.source.functions)


def names() -> list[str]:
    """Return the names of the tasks of labels, for data sets whose samples have one input and labels."""
    return TASKS.names(lambda option: _has("read_labels", option))


def field_tasks() -> list[str]:
    """Return the names of the tasks over named fields."""
    return TASKS.names(lambda option: _has("loss", option))


def checked(name: str) -> str:
    """Return a name if there is such a task.

    Raises:
        ValueError: there is none.
    """
    if name not in names():
        raise ValueError(f"unknown task {name!r}. {nearest(name, names())}")
    return name


@functools.cache
def _instance(name: str) -> LabelTask:
    return cast(LabelTask, _class_with("read_labels", name)())


def task_class(name: str) -> type[Any]:
    """Return the class in the file of a task that has the members of ``Task``."""
    return _class_with("loss", name)


def _class_with(member: str, name: str) -> type[Any]:
    module = TASKS.load(name)
    classes = [cls for _, cls in inspect.getmembers(module, inspect.isclass) if cls.__module__ == module.__name__]
    (cls,) = (cls for cls in classes if hasattr(cls, member))
    return cls


def task(name: str) -> LabelTask:
    """Return a task of labels.

    Raises:
        UserError: there is no such task.

    Example:
        task("regression").main_measure
    """
    if name not in names():
        raise UserError(f"Unknown task {name!r}.", nearest(name, names()))
    return _instance(name)


def by_measure(measure: str) -> LabelTask:
    """Return the task whose main measure has this name."""
    return next(candidate for candidate in map(task, names()) if candidate.main_measure == measure)


SHARES = ("accuracy", "f1", "match", "auc", "precision", "recall", "ece", "calibrated", "iou", "dice", "coverage")
"""Ends of the names of measures that people read in per cent."""


def name_by_measure(measure: str) -> str:
    """Return the name of the task of labels whose main measure has this name; empty if there is none."""
    return next((candidate for candidate in names() if task(candidate).main_measure == measure), "")


def is_share(measure: str) -> bool:
    """Return whether people read a measure in per cent: main measures of labels say so, others by their names."""
    owner = name_by_measure(measure)
    return task(owner).is_share if owner else measure.endswith(SHARES)


def shown(measure: str, value: float) -> str:
    """Return a score as people write it: shares in per cent."""
    return percent(value) if is_share(measure) else f"{value:.4f}"


def shown_difference(measure: str, difference: float) -> str:
    """Return the difference of two scores: of shares in percentage points."""
    return points(difference) if is_share(measure) else f"{difference:.4f}"


TITLES = {"span_f1": "F1 of spans"}
"""Measures that people write otherwise than by their names."""

WORDS = {
    "r2": "R²",
    "iou": "IoU",
    "f1": "F1",
    "dice": "Dice",
    **{name: name.upper() for name in ("mase", "mae", "rmse", "auc", "ece")},
}
"""Words of measures that people write otherwise."""


def title(measure: str) -> str:
    """Return a measure in words.

    Example:
        >>> title("seasonal_naive_mase")
        'seasonal naive MASE'
    """
    return TITLES.get(measure, " ".join(WORDS.get(word, word) for word in measure.split("_")))
