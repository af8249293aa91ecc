"""The ONNX export of a network for a task over named fields, proven to give the network's answers."""

import functools
import json
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NoReturn

import onnx_ir as ir
import torch
from torch import Tensor, nn

from torchmill.components.batches.batch import Batch
from torchmill.components.batches.field_refs import FieldRef, lengths_fields
from torchmill.components.data.field_samples import FieldSamples
from torchmill.components.data.named_fields import answer_names, named_fields
from torchmill.components.encoding.texts import read_files
from torchmill.components.errors import UserError
from torchmill.components.export.config import ExportConfig
from torchmill.components.export.export import SMALLER, ParityError, check_required, write_smaller
from torchmill.components.export.field_gates import FieldCandidate, field_gates, gates_of_smaller
from torchmill.components.export.field_parity import (
    Answering,
    compared,
    double_answers,
    limit,
    rounding,
    torch_answers,
)
from torchmill.components.export.field_smaller import FieldSubject
from torchmill.components.export.gates import Gate
from torchmill.components.export.parity import as_json
from torchmill.components.export.quantize import Bits, Smaller
from torchmill.components.export.tidy import named_by_modules, tidied
from torchmill.components.export.to_onnx import export_quietly, offload, with_plain_weights, write_model
from torchmill.components.export.triton import triton_config
from torchmill.components.field_tasks.field_task import FieldTask
from torchmill.components.files import write_arrays, write_text
from torchmill.components.initialization.fields_model import FieldsModel
from torchmill.components.onnx_model import names
from torchmill.components.onnx_model.field_run import answers_of, stored_fields
from torchmill.components.onnx_model.proto import metadata_of, read_without_weights
from torchmill.components.onnx_model.session import open_session
from torchmill.components.refs import DataRef, ExportRef, FileRef

logger = logging.getLogger("torchmill")

MODEL, WEIGHTS, EXAMPLE, PARITY = "model.onnx", "model.weights", "example.npz", "parity.json"
TRITON = "config.pbtxt"
OPSET = 20
SOME = 64
"""Test samples that are compared at other batch sizes than the largest, and by perturbed models."""
MOST, MOST_NUMBERS = 4096, 32_000_000
"""Test samples that are compared at the largest batch size: this number, or fewer if their answers are large."""
EXAMPLES = 8


def export_fields(
    network: nn.Module,
    data: DataRef,
    test: FieldSamples,
    config: ExportConfig,
    metadata: Mapping[str, str],
    folder: Path,
    calibration: FieldSamples | None = None,
) -> ExportRef:
    """Write ``model.onnx``, whose inputs and outputs are named, its proof and a few answers into ``folder``.

    Args:
        calibration: training samples for the int8 and fp16 models; None skips both.

    Raises:
        ParityError: the model differs from the network or fails a gate, and stays as ``model.rejected.onnx``; or a
            required smaller model is refused.
        UserError: the network cannot be exported.
    """
    exported = write_compared(network, data, test, config, metadata, folder)
    gates = field_gates(exported.candidate)
    if failed := [f"{gate.name}: {gate.evidence}" for gate in gates if not gate.passed]:
        exported.refuse(f"The ONNX model fails a check and is not published: {'; '.join(failed)}.", gates)
    smaller: dict[Bits, Smaller] = {}
    if calibration is not None:
        subject = FieldSubject(data, exported.candidate.fields, calibration, test)
        check = functools.partial(gates_of_smaller, exported.candidate)
        smaller = write_smaller(exported.file, exported.file, _rebuild(exported.file), subject, config, folder, check)
    exported.write_proof(gates, smaller)
    check_required(config, smaller)
    exported.file.replace(folder / MODEL)
    _write_example(
        folder / MODEL, stored_fields(test, exported.candidate.fields, torch.arange(min(EXAMPLES, len(test))))
    )
    write_text(folder / TRITON, triton_config(folder / MODEL))
    weights = [path for path in (folder / WEIGHTS,) if path.exists()]
    return ExportRef(
        onnx=FileRef.of(folder / MODEL),
        report=FileRef.of(folder / PARITY),
        max_abs_diff=exported.proof["max_abs_diff"],
        agreement=exported.proof["agreement"],
        example=FileRef.of(folder / EXAMPLE),
        weights=tuple(map(FileRef.of, weights)),
        triton=FileRef.of(folder / TRITON),
        smaller=tuple(FileRef.of(path) for name in SMALLER.values() if (path := folder / name).exists()),
    )


def _rebuild(model: Path) -> Callable[[ir.Model, Path], None]:
    metadata = metadata_of(read_without_weights(model))

    def build(core: ir.Model, path: Path) -> None:
        write_model(core, metadata, path)

    return build


@dataclass(frozen=True)
class Exported:
    """A model that was written and compared with its network, but not published yet."""

    candidate: FieldCandidate
    proof: dict[str, Any]

    @property
    def file(self) -> Path:
        return self.candidate.file

    def write_proof(self, gates: Sequence[Gate] = (), smaller: Mapping[Bits, Smaller] = {}) -> None:
        """Write ``parity.json`` beside the model."""
        more: dict[str, Any] = {"gates": [asdict(gate) for gate in gates]}
        more |= {"smaller": {bits: verdict.as_plain() for bits, verdict in smaller.items()}} if smaller else {}
        write_text(self.file.with_name(PARITY), as_json({**self.proof, **more}))

    def refuse(self, message: str, gates: Sequence[Gate] = ()) -> NoReturn:
        """Raise ParityError, and leave the proof beside the model."""
        self.proof["passed"] = False
        self.write_proof(gates)
        proof = self.file.with_name(PARITY)
        raise ParityError(message, f"Nothing is published; see {proof} and {self.file.name} beside it.")


def write_compared(
    network: nn.Module,
    data: DataRef,
    test: FieldSamples,
    config: ExportConfig,
    metadata: Mapping[str, str],
    folder: Path,
) -> Exported:
    """Write ``model.rejected.onnx``, and compare it with its network at each batch size.

    Raises:
        ParityError: the model differs from the network.
        UserError: the network cannot be exported.
    """
    for earlier in (MODEL, WEIGHTS, EXAMPLE, PARITY, TRITON, *SMALLER.values()):
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
    exported = _compared(rejected, module, fields, test, sizes, config.tolerance, most)
    if complaints := exported.proof["complaints"]:
        exported.refuse(f"The ONNX model differs from the network: {'; '.join(complaints)}.")
    return exported


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
    ours = named_fields(data)
    fields = {field.name: field for field in (*ours, *lengths_fields(ours), *task.noise_fields())}
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
    axes = {field.name: {0: "batch", **({1: field.length_axis} if field.ragged else {})} for field in fields}
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
    """Return the metadata: descriptions of the inputs, names of the outputs, and the encoding of texts."""
    assert data.goal
    return {
        **{Path(file).stem: content for file, content in read_files(data.folder).items()},  # vocabulary or tokenizer
        names.FORM: names.COMPLETE,
        names.TASK: data.goal.reference if ":" not in data.goal.reference else data.goal.title,
        names.FIELDS: json.dumps([field.model_dump(mode="json", exclude={"names"}) for field in fields]),
        names.CLASSES: json.dumps(answer_names(data)),
        names.OUTPUT: ", ".join(module.outputs),
        names.PREPROCESSING: "standardization, within the model",
    }


def _compared(
    file: Path,
    module: Answering,
    fields: Sequence[FieldRef],
    test: FieldSamples,
    sizes: Sequence[int],
    tolerance: float,
    most: int,
) -> Exported:
    """Compare a model with its network at each batch size.

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
    results, allowed, own = [], {}, 0.0
    for size in sizes:
        inputs = whole if size == max(sizes) else few
        exact, single = references[id(inputs)]
        own = max([own, *(rounding(exact[name], single[name]) for name in exact)])
        limits = {name: limit(exact[name], single[name], tolerance) for name in exact}
        allowed = {name: max(most, allowed.get(name, 0.0)) for name, most in limits.items()}
        outputs = answers_of(session, inputs, size)
        results.append(compared(size, outputs, exact, single, limits, complaints))
    proof = {
        "passed": not complaints,
        "samples": max(result.samples for result in results),
        "max_abs_diff": max(result.max_abs_diff for result in results),
        "agreement": min(result.agreement for result in results),
        "allowed": max(allowed.values(), default=0.0),
        "allowed_by_output": allowed,
        "torch_float32_max_abs_diff": own,
        "score_difference": None,
        "by_batch_size": [asdict(result) for result in results],
        "complaints": complaints,
    }
    return Exported(FieldCandidate(file, module, fields, few, references[id(few)][0], allowed, tolerance), proof)


def _write_example(file: Path, inputs: Mapping[str, Tensor]) -> None:
    session = open_session(file)
    outputs = answers_of(session, inputs, EXAMPLES)
    write_arrays(file.with_name(EXAMPLE), {**{name: values.numpy() for name, values in inputs.items()}, **outputs})
