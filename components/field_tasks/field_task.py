"""A task over named fields, built-in or the user's: its members are checked, and those that it leaves out filled in."""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from torchmill.components.batches.batch import Batch
from torchmill.components.batches.field_refs import FieldRef, noise_fields
from torchmill.components.data.named_fields import facts
from torchmill.components.errors import UserError, nearest
from torchmill.components.field_tasks.statistics import SampleStatistics
from torchmill.components.refs import DataRef
from torchmill.components.tasks import field_tasks, task_class
from torchmill.components.user_code.call import call
from torchmill.components.user_code.importing import first_hand, import_from

LOSS = "loss"
"""Main measure of a task that names none."""

MEMBERS = ("predict", "measure")
"""Methods that every task needs, beside a loss."""

PHASE_KEYS = ("parameters", "loss", "every", "lr_factor")


@dataclass(frozen=True)
class Phase:
    """A part of each training step that trains some of the parameters by a loss of its own."""

    parameters: str
    """Pattern of the names of the parameters."""
    loss: Callable[[Any, Batch], Any]
    every: int
    """Batches from one such phase to the next."""
    lr_factor: float


class FieldTask:
    """A task as the steps call it.

    Example:
        >>> task = FieldTask.open(data)  # doctest: +SKIP
        >>> loss, parts = task.loss(model, model.prepared(batch))  # doctest: +SKIP
    """

    def __init__(self, reference: str, task: Any):
        """
        Raises:
            UserError: the task lacks members, or they are of another form.
        """
        self.reference, self.task = reference, task
        self.main_measure: str = getattr(task, "main_measure", LOSS)
        usual = "lower" if self.main_measure == LOSS else "higher"
        self.better: Literal["higher", "lower"] = getattr(task, "better", usual)
        self.outputs: int = getattr(task, "outputs", 0)
        self.views: int = getattr(task, "views", 1)
        self.block: int = getattr(task, "block", 0)
        self.noise: dict[str, tuple[int, ...]] = getattr(task, "noise", {})
        self.phases = self._phases()
        faults = [f"no method {name}(…)" for name in MEMBERS if not callable(getattr(task, name, None))]
        if not self.phases and not callable(getattr(task, "loss", None)):
            faults.append("neither a method loss(…) nor phases")
        if self.better not in ("higher", "lower"):
            faults.append(f'better = {self.better!r}, not "higher" or "lower"')
        if faults:
            raise UserError(f"The task {reference} has {', '.join(faults)}.", "docs/tasks.md shows a whole one.")

    @classmethod
    def open(cls, data: DataRef) -> "FieldTask":
        """Make the task that a data set's networks are trained for.

        Raises:
            UserError: there is no such task, or its constructor fails.
        """
        assert data.goal
        return cls.made(data.goal.reference, data.goal.args, data)

    @classmethod
    def made(cls, reference: str, args: Mapping[str, object], data: DataRef) -> "FieldTask":
        """Make a task by its name or ``file.py:Class``; its constructor may ask for facts about the data by name."""
        task = call(find(reference), args, reference, "--task.args", offered=facts(data), offered_by=data.name)
        return cls(reference, task)

    @property
    def keeps_last(self) -> bool:
        """True if no loss tells which epoch is the best."""
        return bool(self.phases)

    @property
    def phase_names(self) -> tuple[str, ...]:
        """Names of the phases; a single empty one of a task with one loss."""
        return tuple(self.phases) or ("",)

    def _phases(self) -> dict[str, Phase]:
        phases = {}
        for name, entries in getattr(self.task, "phases", {}).items():
            for key in entries:
                if key not in PHASE_KEYS:
                    raise UserError(f"{self.reference}: phase {name} has '{key}'.", nearest(key, PHASE_KEYS))
            method = entries.get("loss", f"{name}_loss")
            loss = getattr(self.task, method, None)
            if not callable(loss):
                raise UserError(f"{self.reference}: phase {name} names the loss '{method}', which is no method.")
            every = entries.get("every", 1)
            if not isinstance(every, int) or every < 1:
                raise UserError(f"{self.reference}: phase {name} has every = {every!r}, not a whole number from 1.")
            phases[name] = Phase(entries.get("parameters", ""), loss, every, float(entries.get("lr_factor", 1.0)))
        return phases

    def loss(self, network: Any, batch: Batch, phase: str = "") -> tuple[Tensor, dict[str, Tensor]]:
        """Return the mean loss of a batch, and its parts by name, without graph."""
        value = self._own_loss(phase)(network, batch)
        if isinstance(value, Mapping):
            total = torch.stack([part.reshape(()) for part in value.values()]).sum()
            return total, {str(name): part.detach().reshape(()) for name, part in value.items()}
        parts = {f"{phase}_loss": value.detach().reshape(())} if phase else {}
        return value.reshape(()), parts

    def _own_loss(self, phase: str) -> Callable[[Any, Batch], Any]:
        return self.phases[phase].loss if phase else self.task.loss

    def predict(self, network: Any, batch: Batch) -> dict[str, Tensor]:
        """Return the answers to a batch of inputs by name."""
        return dict(self.task.predict(network, batch))

    def measured(self, network: Any, batch: Batch) -> dict[str, Tensor]:
        """Return statistics of each sample, float64 (N, …) on the CPU, for the network's own answers."""
        return self.statistics_of(self.predict(network, batch), batch)

    def statistics_of(self, answer: Mapping[str, Tensor], batch: Batch) -> dict[str, Tensor]:
        """Return statistics of each sample, float64 (N, …) on the CPU."""
        statistics = self.task.measure(answer, batch)
        return {name: values.detach().double().cpu() for name, values in statistics.items()}

    def statistics(self) -> SampleStatistics:
        """Return an empty collection of statistics, which knows the task's measures."""
        return SampleStatistics(self.summarized)

    def noise_fields(self) -> list[FieldRef]:
        """Return the random inputs of the task."""
        return noise_fields(self.noise)

    def drawn(self, batch: Batch) -> Batch:
        """Return a batch with the task's random inputs, which torch's generator of the device draws."""
        if not self.noise:
            return batch
        device = next(iter(batch.values())).device
        random = {name: torch.randn(batch.size, *shape, device=device) for name, shape in self.noise.items()}
        return Batch({**batch.fields, **random}, {**batch.raw, **random}, batch.size, batch.views)

    def summarized(self, means: Mapping[str, Tensor]) -> dict[str, float]:
        """Return the measures that follow from the means of statistics over samples."""
        if callable(summarize := getattr(self.task, "summarize", None)):
            means = summarize(means)
        return {name: float(value) for name, value in means.items()}

    def main(self, measures: Mapping[str, float], loss: float) -> float:
        """Return the main measure."""
        return measures.get(self.main_measure, loss)

    def draw(self, network: Any, batch: Batch, folder: Path) -> list[Path]:
        """Write the task's pictures of some samples; none if it draws nothing."""
        return list(self.task.draw(network, batch, folder)) if callable(getattr(self.task, "draw", None)) else []

    def check(self, network: Any, batch: Batch) -> None:
        """Run each member once.

        Raises:
            UserError: a member fails, or returns something of another form; the message names it.
        """
        for phase in self.phase_names:
            method = "loss" if not phase else f"the loss of phase {phase}"
            with self._said(method):
                value = self._own_loss(phase)(network, batch)
            _check_loss(value, f"{method} of the task {self.reference}" if not phase else f"{self.reference}: {method}")
        with torch.no_grad(), self._said("predict"):
            answer = self.task.predict(network, batch)
        _check_rows(answer, batch.size, f"predict of the task {self.reference}")
        with torch.no_grad(), self._said("measure"):
            statistics = self.task.measure(answer, batch)
        _check_rows(statistics, batch.size, f"measure of the task {self.reference}")
        with self._said("summarize"):
            measures = self.summarized({name: values.double().mean(0) for name, values in statistics.items()})
        if self.main_measure not in {*measures, LOSS}:
            raise UserError(
                f"The task {self.reference} has no measure '{self.main_measure}', its main_measure.",
                nearest(self.main_measure, measures),
            )

    def _said(self, method: str) -> "_Said":
        return _Said(f"{method} of the task {self.reference} fails")


class _Said:
    """Turns an exception of the user's code into a UserError with its place."""

    def __init__(self, message: str):
        self.message = message

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if isinstance(error, Exception) and not isinstance(error, UserError):
            raise UserError(f"{self.message}: {first_hand(error)}") from error


def _check_loss(value: Any, place: str) -> None:
    parts = dict(value) if isinstance(value, Mapping) else {"": value}
    for name, part in parts.items():
        of = f" '{name}'" * bool(name)
        if not isinstance(part, Tensor) or part.numel() != 1:
            returned = tuple(part.shape) if isinstance(part, Tensor) else type(part).__name__
            raise UserError(f"{place} returns{of} {returned}; expected one number.", "Take the mean over samples.")
        if not torch.isfinite(part):
            raise UserError(f"{place} is{of} {part.item()} for the first batch.", "Look for a logarithm or a division.")


def _check_rows(values: Any, samples: int, place: str) -> None:
    if not isinstance(values, Mapping) or not values:
        raise UserError(f"{place} returns a {type(values).__name__}; expected tensors by name.")
    for name, value in values.items():
        shape = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
        if not isinstance(value, Tensor) or value.dim() < 1 or len(value) != samples:
            raise UserError(
                f"{place} returns '{name}' of {shape} for {samples} samples; expected ({samples}, …).",
                "Return a row for each sample.",
            )


def find(reference: str) -> type[Any]:
    """Return the class of a task.

    Raises:
        UserError: there is no such task, or its file doesn't import.
    """
    place, _, name = reference.rpartition(":")
    if not place:
        if name not in field_tasks():
            raise UserError(f"Unknown task {name!r}.", nearest(name, field_tasks()))
        return task_class(name)
    module = import_from(place)
    value = getattr(module, name, None)
    if value is None:
        raise UserError(
            f"{place} has no '{name}'.",
            nearest(name, [key for key, value in vars(module).items() if inspect.isclass(value)]),
        )
    if not inspect.isclass(value):
        raise UserError(f"{reference} is a {type(value).__name__}, not a class.")
    return value
