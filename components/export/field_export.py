"""The ONNX export of a network for a task over named fields, proven to give the network's answers."""

import copy
import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from torchmill.components.batches.batch import Batch
from torchmill.components.batches.field_refs import FieldRef
from torchmill.components.data.fetch import VOCABULARY
from torchmill.components.data.field_samples import FieldSamples
from torchmill.components.data.named_fields import LENGTHS_FIELD, named_fields
from torchmill.components.errors import UserError
from torchmill.components.export.config import ExportConfig
from torchmill.components.export.export import ParityError
from torchmill.components.export.gates import NOISE, noisy
from torchmill.components.export.parity import as_json
from torchmill.components.export.tidy import named_by_modules, tidied
from torchmill.components.export.to_onnx import export_quietly, offload, with_plain_weights, write_model
from torchmill.components.field_tasks.field_task import FieldTask
from torchmill.components.files import write_arrays, write_text
from torchmill.components.initialization.fields_model import FieldsModel
from torchmill.components.onnx_model import names
from torchmill.components.onnx_model.field_run import Arrays, answers_of, stored_fields
from torchmill.components.onnx_model.proto import open_changed, read_without_weights
from torchmill.components.onnx_model.session import open_session
from torchmill.components.refs import DataRef, ExportRef, FileRef

logger = logging.getLogger("torchmill")

MODEL, WEIGHTS, EXAMPLE, PARITY = "model.onnx", "model.weights", "example.npz", "parity.json"
OPSET = 20
SOME = 64
"""Test samples that are compared at other batch sizes than the largest, and by perturbed models."""
MOST, MOST_NUMBERS = 4096, 32_000_000
"""Test samples that are compared at the largest batch size: this number, or fewer if their answers are large."""
EXAMPLES = 8
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


def export_fields(
    network: nn.Module,
    data: DataRef,
    test: FieldSamples,
    config: ExportConfig,
    metadata: Mapping[str, str],
    folder: Path,
) -> ExportRef:
    """Write ``model.onnx``, whose inputs and outputs are named, its proof and a few answers into ``folder``.

    Raises:
        ParityError: the model differs from the network. It stays as ``model.rejected.onnx``.
        UserError: the network cannot be exported.
    """
    for earlier in (MODEL, WEIGHTS, EXAMPLE, PARITY):
        (folder / earlier).unlink(missing_ok=True)
    rejected = folder / "model.rejected.onnx"
    network = with_plain_weights(network.cpu().eval().to(memory_format=torch.contiguous_format))
    model, task = FieldsModel.of(network, data).eval(), FieldTask.open(data)
    read, answer = read_by(task, model, task.drawn(model.prepared(test.take(torch.arange(min(2, len(test)))))))
    fields = exported_fields(task, data, read)
    sample = stored_fields(test, fields, torch.arange(min(2, len(test))))
    module = Answering(model, task, list(sample), list(answer)).eval()
    write_fields_model(module, fields, sample, data, metadata, rejected)
    sizes = [size for size in config.batch_sizes if size <= len(test)] or [1]
    numbers = sum(values[0].numel() for values in answer.values())
    most = min(len(test), MOST, max(EXAMPLES, MOST_NUMBERS // max(1, numbers)))
    proof = _proof(rejected, module, fields, test, sizes, config.tolerance, most)
    write_text(folder / PARITY, as_json(proof))
    if not proof["passed"]:
        raise ParityError(
            f"The ONNX model differs from the network: {'; '.join(proof['complaints'])}.",
            f"Nothing is published; see {folder / PARITY} and {rejected.name} beside it.",
        )
    rejected.replace(folder / MODEL)
    _write_example(folder / MODEL, stored_fields(test, fields, torch.arange(min(EXAMPLES, len(test)))))
    weights = [path for path in (folder / WEIGHTS,) if path.exists()]
    return ExportRef(
        onnx=FileRef.of(folder / MODEL),
        report=FileRef.of(folder / PARITY),
        max_abs_diff=proof["max_abs_diff"],
        agreement=proof["agreement"],
        example=FileRef.of(folder / EXAMPLE),
        weights=tuple(map(FileRef.of, weights)),
    )


class _Recorded(Mapping[str, Tensor]):
    """Fields that note which of them are read."""

    def __init__(self, fields: Mapping[str, Tensor], read: dict[str, None]):
        self.fields, self.read = fields, read

    def __getitem__(self, name: str) -> Tensor:
        value = self.fields[name]
        self.read[name] = None
        return value

    def __iter__(self) -> Iterator[str]:
        return iter(self.fields)

    def __len__(self) -> int:
        return len(self.fields)


@torch.no_grad()
def read_by(task: FieldTask, model: FieldsModel, batch: Batch) -> tuple[list[str], dict[str, Tensor]]:
    """Return the fields that a task's answers depend on, and the answers to a batch."""
    read: dict[str, None] = {}
    recorded = Batch(_Recorded(batch.fields, read), _Recorded(batch.raw, read), batch.size)
    answer = task.predict(model, recorded)
    return [name for name in batch if name in read], answer


def exported_fields(task: FieldTask, data: DataRef, read: Sequence[str]) -> list[FieldRef]:
    """Return the inputs of an exported model.

    Raises:
        UserError: the answers depend on a target.
    """
    fields = {field.name: field for field in (*named_fields(data), LENGTHS_FIELD, *task.noise_fields())}
    for name in read:
        if fields[name].is_target:
            raise UserError(
                f"predict of the task {task.reference} reads the target '{name}', which nobody knows beforehand.",
                "Read inputs alone in predict; measure may read targets.",
            )
    return [fields[name] for name in read]


def write_fields_model(
    module: Answering,
    fields: Sequence[FieldRef],
    sample: Mapping[str, Tensor],
    data: DataRef,
    metadata: Mapping[str, str],
    path: Path,
) -> None:
    """Write an ONNX model for any number of samples, and for any length of ragged fields.

    Raises:
        UserError: torch cannot export the network.
    """
    axes = {field.name: {0: "batch", 1: "length"} if field.ragged else {0: "batch"} for field in fields}
    program = export_quietly(
        module,
        tuple(sample.values()),
        opset=OPSET,
        input_names=list(sample),
        output_names=list(module.outputs),
        dynamic_shapes=(tuple(axes[name] for name in sample),),
        name=type(module.model.network).__name__,
    )
    model = named_by_modules(tidied(program))
    offload(model, path.with_name(WEIGHTS))
    write_model(model, {**described(data, fields, module), **metadata}, path)


def described(data: DataRef, fields: Sequence[FieldRef], module: Answering) -> dict[str, str]:
    """Return the metadata: descriptions of the inputs, names of the outputs, and the vocabulary of tokens."""
    assert data.goal
    file = data.folder / VOCABULARY
    return {
        **({names.VOCABULARY: file.read_text(encoding="utf-8")} if file.is_file() else {}),
        names.FORM: names.COMPLETE,
        names.TASK: data.goal.reference if ":" not in data.goal.reference else data.goal.title,
        names.FIELDS: json.dumps([field.model_dump(mode="json", exclude={"names"}) for field in fields]),
        names.CLASSES: json.dumps(list(data.classes)),
        names.OUTPUT: ", ".join(module.outputs),
        names.PREPROCESSING: "standardization, within the model",
    }


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


def _proof(
    file: Path,
    module: Answering,
    fields: Sequence[FieldRef],
    test: FieldSamples,
    sizes: Sequence[int],
    tolerance: float,
    most: int,
) -> dict[str, Any]:
    """Compare a model with its network at each batch size, and show that changed weights would be noticed.

    Args:
        most: test samples, evenly spread, that are compared at the largest batch size.
    """
    few, whole = (
        stored_fields(test, fields, torch.linspace(0, len(test) - 1, count).long()) for count in (min(SOME, most), most)
    )
    references = {
        id(inputs): (double_answers(module, inputs), torch_answers(module, inputs)) for inputs in (few, whole)
    }
    session = open_session(file)
    complaints: list[str] = []
    results, allowed, rounding = [], {}, 0.0
    for size in sizes:
        inputs = whole if size == max(sizes) else few
        exact, single = references[id(inputs)]
        rounding = max([rounding, *(_rounding(exact[name], single[name]) for name in exact)])
        limits = {name: _limit(exact[name], single[name], tolerance) for name in exact}
        allowed = {name: max(limit, allowed.get(name, 0.0)) for name, limit in limits.items()}
        outputs = answers_of(session, inputs, size)
        results.append(_compared(size, outputs, exact, single, limits, complaints))
    power = _power(file, few, references[id(few)][0], allowed)
    if not power[0]:
        complaints.append(power[1])
    worst = max(result.max_abs_diff for result in results)
    return {
        "passed": not complaints,
        "samples": max(result.samples for result in results),
        "max_abs_diff": worst,
        "agreement": min(result.agreement for result in results),
        "allowed": max(allowed.values(), default=0.0),
        "allowed_by_output": allowed,
        "torch_float32_max_abs_diff": rounding,
        "score_difference": None,
        "by_batch_size": [asdict(result) for result in results],
        "complaints": complaints,
        "gates": [{"name": "power", "evidence": power[1], "passed": power[0]}],
    }


def _limit(exact: np.ndarray, single: np.ndarray, tolerance: float) -> float:
    """Return the allowed difference: a share of the largest value, or eight times torch's own rounding."""
    if exact.dtype.kind != "f" or not exact.size:
        return 0.0
    return max(tolerance * max(1.0, float(np.abs(exact).max())), 8 * _rounding(exact, single))


def _rounding(exact: np.ndarray, single: np.ndarray) -> float:
    """Return the largest difference between float32 and float64 in torch; 0 of whole numbers."""
    return float(np.abs(single.astype(np.float64) - exact).max(initial=0)) if exact.dtype.kind == "f" else 0.0


def _compared(
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


def _power(file: Path, inputs: Mapping[str, Tensor], exact: Arrays, allowed: Mapping[str, float]) -> tuple[bool, str]:
    """Return whether the comparison notices weights that are changed by 1 % or less, and the evidence."""
    proto = read_without_weights(file)
    for noise in NOISE:
        changed = noisy(proto, noise, file.parent)
        outputs = answers_of(open_changed(changed or proto, file), inputs, BATCH)
        for name, expected in exact.items():
            if expected.dtype.kind == "f":
                noticed = float(np.abs(outputs[name] - expected).max(initial=0)) > allowed[name]
            else:
                noticed = bool((outputs[name] != expected).mean() > 0.01)
            if noticed:
                return True, f"weights changed by {noise:g} are noticed in {name}"
    return False, f"weights changed by {NOISE[-1]:g} would not be noticed: the answers hardly depend on the network"


def _write_example(file: Path, inputs: Mapping[str, Tensor]) -> None:
    session = open_session(file)
    outputs = answers_of(session, inputs, EXAMPLES)
    write_arrays(file.with_name(EXAMPLE), {**{name: values.numpy() for name, values in inputs.items()}, **outputs})
