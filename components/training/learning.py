"""How a network learns from a batch: its loss and its score, for tasks of labels and for tasks over named fields."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from torchmill.components.batches.batch import Batch
from torchmill.components.data.field_samples import FieldSamples
from torchmill.components.data.samples import Samples
from torchmill.components.errors import UserError
from torchmill.components.field_tasks.field_task import FieldTask
from torchmill.components.initialization.build import outputs_of
from torchmill.components.initialization.fields_model import FieldsModel
from torchmill.components.initialization.standardized_model import StandardizedModel
from torchmill.components.tasks import LabelTask
from torchmill.components.training.losses import Objective, make_loss
from torchmill.components.training.nonfinite import first_not_finite
from torchmill.components.training.setup import TrainingSetup
from torchmill.components.training.validation import validate

Model = StandardizedModel | FieldsModel
AnyBatch = tuple[Tensor, Tensor] | Batch
"""Inputs and labels, or named fields."""


class Pass(NamedTuple):
    """The outcome of a forward pass."""

    loss: Tensor
    """Mean loss of the batch, with its graph."""
    score: Tensor
    """Sum of the samples' scores; 0 if scores are computed in validation alone."""
    parts: Mapping[str, Tensor]
    """Parts of the loss by name, without graph; empty if it has one part."""


class PhasePlan(NamedTuple):
    """A phase of a step: it trains some parameters by a loss of its own."""

    name: str = ""
    """Name of the phase; empty of the only one."""
    parameters: str = ""
    """Pattern of the names of the parameters that the phase trains; empty for all."""
    every: int = 1
    """Batches from one such phase to the next."""
    lr_factor: float = 1.0


class Learning(Protocol):
    """How a network learns from a batch. Batches are opaque to the training loop."""

    measure: str
    """Name of the score."""
    counts_right: bool
    """True if scores are whole numbers of samples."""
    scores_training: bool
    """True if scores are summed in training as well as in validation."""
    keeps_last: bool
    """True if the last epoch is kept, not the one of the lowest validation loss."""
    phases: tuple[PhasePlan, ...]

    def size(self, batch: Any) -> int:
        """Return the number of samples of a batch."""
        ...

    def split(self, batch: Any, parts: int) -> Sequence[Any]:
        """Return a batch in parts whose sizes differ by one at most."""
        ...

    def forward(self, model: Any, batch: Any, phase: str) -> Pass:
        """Compute the loss of a batch, and its score.

        Args:
            model: the model, as it is wrapped for the training.
        """
        ...

    def validate(self, model: Any, split: Any, parts: int) -> tuple[float, float]:
        """Return mean loss and score of a split in eval mode, passed in parts."""
        ...

    def find_nonfinite(self, model: Any, parts: Sequence[Any]) -> str:
        """Describe the first value that is infinite or NaN when the model gets these batches again."""
        ...


class LabelLearning:
    """Learning from inputs with labels, by the loss of the configuration."""

    scores_training, keeps_last = True, False

    def __init__(self, objective: Objective, task: LabelTask):
        self.objective, self.task = objective, task
        self.measure, self.counts_right = task.main_measure, task.counts_right
        self.phases: tuple[PhasePlan, ...] = (PhasePlan(),)

    def size(self, batch: tuple[Tensor, Tensor]) -> int:
        return len(batch[1])

    def split(self, batch: tuple[Tensor, Tensor], parts: int) -> list[tuple[Tensor, Tensor]]:
        inputs, labels = (values.tensor_split(parts) for values in batch)
        return list(zip(inputs, labels, strict=True))

    def forward(self, model: Any, batch: tuple[Tensor, Tensor], phase: str) -> Pass:
        inputs, labels = batch
        output = model(inputs)
        return Pass(self.objective(output, labels), self.task.score_sum(outputs_of(output)[0].detach(), labels), {})

    def validate(self, model: Any, split: Samples, parts: int) -> tuple[float, float]:
        return validate(model, self.objective, self.task, split, parts)

    def find_nonfinite(self, model: Any, parts: Sequence[tuple[Tensor, Tensor]]) -> str:
        return first_not_finite(model.network, lambda: [model(inputs) for inputs, _ in parts])


class FieldLearning:
    """Learning from named fields, by a task's own loss."""

    counts_right = scores_training = False

    def __init__(self, task: FieldTask):
        self.task = task
        self.measure, self.keeps_last = task.main_measure, task.keeps_last
        self.phases: tuple[PhasePlan, ...] = tuple(
            PhasePlan(name, phase.parameters, phase.every, phase.lr_factor) for name, phase in task.phases.items()
        ) or (PhasePlan(),)

    def size(self, batch: Batch) -> int:
        return batch.size

    def split(self, batch: Batch, parts: int) -> list[Batch]:
        return batch.split(parts)

    def forward(self, model: Any, batch: Batch, phase: str) -> Pass:
        loss, parts = self.task.loss(model, self.task.drawn(prepared(model, batch)), phase)
        return Pass(loss, torch.zeros((), device=loss.device), parts)

    @torch.no_grad()
    def validate(self, model: FieldsModel, split: FieldSamples, parts: int) -> tuple[float, float]:
        """Return loss and score; losses that draw random numbers draw the same ones each time."""
        model.eval()
        total, statistics = 0.0, self.task.statistics()
        devices = [split.device] if split.device.type == "cuda" else []
        with torch.random.fork_rng(devices=devices):
            torch.manual_seed(0)
            for raw in split.parts(parts):
                batch = self.task.drawn(model.prepared(raw))
                total += sum(self.task.loss(model, batch, phase.name)[0].item() for phase in self.phases) * batch.size
                statistics.add(self.task.measured(model, batch))
        return total / len(split), self.task.main(statistics.measures(), total / len(split))

    def find_nonfinite(self, model: FieldsModel, parts: Sequence[Batch]) -> str:
        def again() -> list[Tensor]:
            return [
                self.task.loss(model, self.task.drawn(model.prepared(batch)), phase.name)[0]
                for batch in parts
                for phase in self.phases
            ]

        return first_not_finite(model.network, again)


def prepared(model: Any, batch: Batch) -> Batch:
    """Return a batch as networks take it; the model may be wrapped for several processes or compiled."""
    inner = getattr(model, "module", model)
    return getattr(inner, "model", inner).prepared(batch)


def make_learning(setup: TrainingSetup) -> Learning:
    """Return how a training's network learns."""
    data = setup.data
    if data.goal:
        task = FieldTask.open(data)
        if task.phases and setup.config.processes not in ("auto", "1"):
            raise UserError(f"{task.reference} has phases, which train in one process.", "Leave --train.processes out.")
        return FieldLearning(task)
    assert isinstance(setup.training, Samples)
    objective = make_loss(setup.config, data, setup.training).to(setup.device)
    return LabelLearning(objective, data.task_object)
