"""Named fields that calibrate smaller versions of a model, and judge them."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from torchmill.components.batches.field_refs import FieldRef
from torchmill.components.data.field_samples import FieldSamples
from torchmill.components.errors import UserError
from torchmill.components.evaluation.comparison.field_champion import compare_answers, margin_of
from torchmill.components.evaluation.comparison.noninferiority import Comparison
from torchmill.components.export.quantize import SURE, Inputs
from torchmill.components.field_tasks.field_task import LOSS, FieldTask
from torchmill.components.onnx_model.field_run import stored_fields
from torchmill.components.refs import DataRef

if TYPE_CHECKING:
    import onnxruntime

BATCH = 32


@dataclass(frozen=True)
class FieldSubject:
    """Samples of named fields."""

    data: DataRef
    fields: Sequence[FieldRef]
    """Inputs of the model."""
    training: FieldSamples
    test: FieldSamples

    @property
    def measure(self) -> str:
        return self.data.measure

    def calibration(self, core: "onnxruntime.InferenceSession") -> Iterable[Inputs]:
        starts = range(0, len(self.training), BATCH)
        return (self._stored(self.training, np.arange(start, start + BATCH) % len(self.training)) for start in starts)

    def compare(self, model: Path, smaller: Path) -> Comparison:
        task = FieldTask.open(self.data)
        if task.main_measure == LOSS:
            raise UserError("the task names no main_measure to judge it by")
        return compare_answers((model, smaller), task, self.data, self.test, SURE)

    def budget(self, comparison: Comparison, share: float) -> float:
        return margin_of(self.measure, share, comparison)

    def inputs(self, session: "onnxruntime.InferenceSession", samples: int) -> Inputs:
        return self._stored(self.test, np.arange(samples) % len(self.test))

    def _stored(self, samples: FieldSamples, rows: np.ndarray) -> Inputs:
        fields = stored_fields(samples, self.fields, torch.from_numpy(rows))
        return {name: values.numpy() for name, values in fields.items()}
