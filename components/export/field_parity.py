"""The comparison of an exported model of a task over named fields with its network, answer by answer."""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from torchmill.components.batches.batch import Batch
from torchmill.components.errors import UserError
from torchmill.components.field_tasks.field_task import FieldTask
from torchmill.components.initialization.fields_model import FieldsModel
from torchmill.components.onnx_model.field_run import Arrays

BATCH = 64


class Answering(nn.Module):
    """A network with its task: from stored fields to the task's answers, in the order of ``outputs``."""

    def __init__(self, model: FieldsModel, task: FieldTask, inputs: Sequence[str], outputs: Sequence[str] = ()):
        super().__init__()
        self.model, self.task, self.inputs, self.outputs = model, task, tuple(inputs), tuple(outputs)

    def forward(self, *fields: Tensor) -> tuple[Tensor, ...]:
        raw = dict(zip(self.inputs, fields, strict=True))
        answer = self.task.predict(self.model, self.model.prepared(Batch(raw, raw, 0)))
        return tuple(answer[name] for name in self.outputs or answer)


@dataclass(frozen=True)
class SizeComparison:
    """Answers of the ONNX model at one batch size, compared with torch in float64."""

    batch_size: int
    max_abs_diff: float
    """Largest difference of answers that are fractions."""
    agreement: float
    """Share of answers that are whole numbers and equal; 1 without such answers."""
    samples: int


@torch.no_grad()
def torch_answers(module: Answering, inputs: Mapping[str, Tensor], size: int = BATCH) -> Arrays:
    """Return the named answers of a network to stored fields."""
    samples = len(next(iter(inputs.values())))
    batches = [
        module(*(values[start : start + size] for values in inputs.values())) for start in range(0, samples, size)
    ]
    return {name: torch.cat([batch[at] for batch in batches]).numpy() for at, name in enumerate(module.outputs)}


def double_answers(module: Answering, inputs: Mapping[str, Tensor]) -> Arrays:
    """Return the answers of a copy that computes in float64.

    Raises:
        UserError: the network cannot run in float64.
    """
    try:
        doubles = {name: value.double() if value.is_floating_point() else value for name, value in inputs.items()}
        return torch_answers(copy.deepcopy(module).double(), doubles)
    except RuntimeError as error:
        raise UserError(
            f"{type(module.model.network).__name__} cannot be run in float64, which judges its export: "
            f"{' '.join(str(error).split())}",
            "Keep its constants as buffers (register_buffer) and make tensors in the dtype of the input.",
        ) from error


def limit(exact: np.ndarray, single: np.ndarray, tolerance: float) -> float:
    """Return the allowed difference: a share of the largest value, or eight times torch's own rounding."""
    if exact.dtype.kind != "f" or not exact.size:
        return 0.0
    return max(tolerance * max(1.0, float(np.abs(exact).max())), 8 * rounding(exact, single))


def rounding(exact: np.ndarray, single: np.ndarray) -> float:
    """Return the largest difference between float32 and float64 in torch; 0 of whole numbers."""
    return float(np.abs(single.astype(np.float64) - exact).max(initial=0)) if exact.dtype.kind == "f" else 0.0


def compared(
    size: int, outputs: Arrays, exact: Arrays, single: Arrays, limits: Mapping[str, float], complaints: list[str]
) -> SizeComparison:
    worst, agreement = 0.0, 1.0
    for name, expected in exact.items():
        output = outputs[name]
        if output.shape != expected.shape:
            complaints.append(f"batch size {size}: {name} has the shape {output.shape}, not {expected.shape}")
            return SizeComparison(size, float("inf"), 0.0, len(expected))
        if expected.dtype.kind == "f":
            difference = np.nan_to_num(np.abs(output - expected), nan=np.inf)
            worst = max(worst, float(difference.max(initial=0)))
            if difference.max(initial=0) > limits[name]:
                place = tuple(int(at) for at in np.unravel_index(difference.argmax(), difference.shape))
                complaints.append(
                    f"batch size {size}: {name}{list(place)} is {output[place]:.6g} instead of {expected[place]:.6g}; "
                    f"allowed is {limits[name]:.3g}"
                )
            continue
        wrong = output != expected
        own = float((single[name] != expected).mean())  # torch's own rounding decides some answers otherwise, too
        agreement = min(agreement, 1 - float(wrong.mean()))
        if wrong.mean() > max(2 * own, 1e-4 * (wrong.size > 10_000)):
            complaints.append(f"batch size {size}: {int(wrong.sum()):,} of {wrong.size:,} values of {name} differ")
    return SizeComparison(size, worst, agreement, len(next(iter(exact.values()))))
