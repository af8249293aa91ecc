"""Write a trained network as one ONNX file that takes raw inputs."""

import copy
import io
import json
import logging
import warnings
from collections.abc import Mapping
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import cast

import onnx
import onnx_ir as ir
import torch
from torch import nn
from torch.nn.utils import parametrize

from torchmill.components.data.fetch import VOCABULARY, read_columns
from torchmill.components.encoding.vocabulary import Vocabulary
from torchmill.components.errors import UserError
from torchmill.components.export.pre_and_post import OPSET, add_pre_and_postprocessing
from torchmill.components.export.tidy import named_by_modules, tidied
from torchmill.components.files import write_atomically
from torchmill.components.initialization.standardized_model import StandardizedModel, blank
from torchmill.components.onnx_model import names
from torchmill.components.refs import DataRef

NEEDED = ("torch._dynamo", "torch.onnx._internal.exporter._core", "onnxscript", "onnxruntime")
"""Modules that an export imports late: they take seconds."""

LARGEST = 2_000_000_000
"""Bytes of weights that fit into one ONNX file: protobuf ends at 2 GiB."""
SMALL_TENSOR = 1024
"""Bytes from which a tensor moves to the file of weights."""

RESAMPLING = "the middle of the network's ratio of sides, bilinear with antialiasing: ImageOps.fit of Pillow"


def to_onnx(
    network: nn.Module, data: DataRef, metadata: Mapping[str, str], path: Path, temperature: float = 1.0
) -> None:
    """Export ``network`` with its pre- and postprocessing, for any batch size: the complete form.

    The model takes one input:

    - ``pixels``: uint8, (batch, C, H, W) or (batch, H, W, C), of any height and width
    - ``tokens``: int64, (batch, length), padded with 0
    - ``features``: float32, (batch, F, …)

    It returns ``values`` in the targets' own units, or:

    - ``logits``: float32, (batch, classes)
    - ``probabilities``: the same shape
    - ``labels``: names, (batch,); for several labels bool, (batch, labels)
    - ``index``: numbers of classes, int64 (batch,)

    Its ``metadata_props`` describe its use and contain ``metadata``. The file has no traces of source files.

    Args:
        temperature: divisor of the logits before they become probabilities.

    Raises:
        UserError: torch cannot export the network, or the checker refuses the result.
    """
    core = export_core(network, data)
    offload(core, path.with_suffix(".weights"))
    write_complete(core, data, metadata, path, temperature)


def write_complete(
    core: ir.Model, data: DataRef, metadata: Mapping[str, str], path: Path, temperature: float = 1.0
) -> None:
    """Write a network's model with its pre- and postprocessing; ``core`` is used up."""
    model = add_pre_and_postprocessing(core, data, temperature)
    write_model(model, {**describe(data, temperature), **metadata}, path)


def write_bare(
    core: ir.Model, data: DataRef, metadata: Mapping[str, str], path: Path, temperature: float = 1.0
) -> None:
    """Write a network's model alone; its metadata describes the preparation of inputs, and the probabilities."""
    write_model(core, {**describe_bare(data, temperature), **metadata}, path)


def write_model(model: ir.Model, metadata: Mapping[str, str], path: Path) -> None:
    """Write a model with its metadata, and check the file.

    Raises:
        UserError: it is not valid ONNX.
    """
    model.metadata_props.clear()
    model.metadata_props.update(metadata)
    model.ir_version = min(model.ir_version, onnx.helper.find_min_ir_version_for(_opsets(model)))
    proto = ir.to_proto(model)

    def write(partial: Path) -> None:
        # Sorted fields make the same network the same bytes.
        partial.write_bytes(proto.SerializeToString(deterministic=True))
        # By its path, since weights may be in a file beside it.
        onnx.checker.check_model(str(partial), full_check=True)

    try:
        write_atomically(path, write)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise UserError(f"The exported model is not valid ONNX: {' '.join(str(error).split())}") from error


def offload(model: ir.Model, file: Path) -> bool:
    """Move a model's weights to a file, one after the other, if they are too large for an ONNX file.

    The model has to be written beside that file. Its other forms, made from it, share the file.

    Returns:
        True if the file was written.
    """
    if sum(value.const_value.nbytes for value in model.graph.initializers.values() if value.const_value) < LARGEST:
        return False
    ir.external_data.unload_from_model(model, file.parent, file.name, size_threshold_bytes=SMALL_TENSOR)
    return True


def _opsets(model: ir.Model) -> list[onnx.OperatorSetIdProto]:
    return [onnx.helper.make_opsetid(domain, version) for domain, version in model.opset_imports.items()]


def with_plain_weights(network: nn.Module) -> nn.Module:
    """Return the network, or a copy whose parametrized weights (orthogonal, weight_norm …) are plain constants.

    They change in training alone, and ONNX lacks many of the operations that compute them.
    """
    if not any(parametrize.is_parametrized(module) for module in network.modules()):
        return network
    network = copy.deepcopy(network)
    for module in network.modules():
        if parametrize.is_parametrized(module):
            lists = cast(nn.ModuleDict, module.parametrizations)
            weights = {name: getattr(module, name).detach() for name in lists}
            # Torch's remove_parametrizations would change the class, which the original network shares.
            module.__class__ = parametrize.type_before_parametrizations(module)
            del module.parametrizations
            for name, weight in weights.items():
                module.register_parameter(name, nn.Parameter(weight))
    return network


def describe(data: DataRef, temperature: float = 1.0) -> dict[str, str]:
    """Return the metadata that describes a model's input and output, so that the file needs no others."""
    columns = read_columns(data)
    takes, prepares = data.field.describe_input(data.shape, columns, data.rules)
    described = {
        names.FORM: names.COMPLETE,
        names.CLASSES: json.dumps(list(data.classes)),
        names.KIND: data.kind,
        names.TASK: data.task,
        names.SHAPE: json.dumps(list(data.shape)),
        names.INPUT: takes,
        names.PREPROCESSING: prepares,
        names.OUTPUT: data.task_object.describe_output(len(data.classes)),
        names.RULES: data.rules.as_json(),
        names.INPUT_STATISTICS: json.dumps({"mean": list(data.mean), "std": list(data.std)}),
    }
    if data.task_object.has_probabilities:
        described[names.TEMPERATURE] = f"{temperature:.6g}"
    if data.field.is_sequence:
        described[names.VOCABULARY] = (data.folder / VOCABULARY).read_text(encoding="utf-8")
        described[names.TOKENIZATION] = Vocabulary.from_json(described[names.VOCABULARY]).tokenization_as_json()
    if data.field.is_picture:
        described |= {names.LAYOUT: "NHWC or NCHW", names.RESAMPLING: RESAMPLING}
    if columns:
        described[names.COLUMNS] = columns.as_json()
    return described


def describe_bare(data: DataRef, temperature: float = 1.0) -> dict[str, str]:
    """Return the metadata that describes the bare form, and how its inputs are prepared."""
    task, described = data.task_object, describe(data, temperature)
    takes, prepares = data.field.describe_bare_input(data.shape, read_columns(data), data.rules)
    answer = f"{task.onnx_output}, float32 (batch, {len(data.classes)})"
    if task.has_probabilities:
        answer += f"; probabilities are the {task.activation} of logits / temperature"
    described |= {names.FORM: names.BARE, names.INPUT: takes, names.PREPROCESSING: prepares, names.OUTPUT: answer}
    if data.field.is_picture:
        described[names.LAYOUT] = "NCHW"
        described[names.MEAN] = json.dumps(list(data.mean))
        described[names.STD] = json.dumps([value or 1.0 for value in data.std])
    return described


def example(data: DataRef) -> tuple[torch.Tensor, tuple[dict[int, str], ...]]:
    """Return an input to trace the model with, and its dynamic dimensions."""
    return blank(data), (dict(enumerate(data.field.dynamic_axes)),)


class _Prepared(nn.Module):
    """A network for inputs that are standardized already."""

    def __init__(self, model: StandardizedModel):
        super().__init__()
        self.model = model

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return self.model.behind(inputs)


def export_core(network: nn.Module, data: DataRef, batch: int | None = None, opset: int = OPSET) -> ir.Model:
    """Export a network alone: standardized pixels, token ids or plain numbers in, its own answer out.

    Args:
        batch: the only batch size; the length of sequences is then fixed as well. None leaves them free.
        opset: version of ONNX's operators.

    Raises:
        UserError: torch cannot export the network.
    """
    network = network.cpu().eval().to(memory_format=torch.contiguous_format)
    model = StandardizedModel.of(with_plain_weights(network), data).eval()
    inputs, dynamic = (blank(data, batch), None) if batch else example(data)
    program = export_quietly(
        _Prepared(model) if data.field.is_picture else model,
        (inputs,),
        opset=opset,
        input_names=[data.field.bare_input],
        output_names=[data.task_object.onnx_output],
        dynamic_shapes=dynamic,
        name=type(network).__name__,
    )
    return named_by_modules(tidied(program))


def export_quietly(
    module: nn.Module,
    inputs: tuple[torch.Tensor, ...],
    *,
    opset: int,
    input_names: list[str],
    output_names: list[str],
    dynamic_shapes: object,
    name: str,
) -> ir.Model:
    """Export a module by torch's exporter, whose messages are left out.

    Args:
        name: name of the network in errors.

    Raises:
        UserError: torch cannot export it.
    """
    quiet = logging.getLogger("torch")
    level = quiet.level
    quiet.setLevel(logging.ERROR)
    try:
        # The exporter prints to stdout, and graphs to stderr if it fails.
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            program = torch.onnx.export(
                module,
                inputs,
                dynamo=True,
                opset_version=opset,
                input_names=input_names,
                output_names=output_names,
                dynamic_shapes=dynamic_shapes,  # ty: ignore[invalid-argument-type]
                verbose=False,
            )
    except torch.onnx.errors.OnnxExporterError as error:
        cause = _root_cause(error)
        raise UserError(
            f"{name} cannot be exported to ONNX: {' '.join(str(cause).split())[:500]}",
            "Branches on a tensor's values and sizes taken from the batch are the usual reasons.",
        ) from error
    finally:
        quiet.setLevel(level)
    assert program is not None  # torch.onnx.export returns None only without dynamo
    return program.model


def _root_cause(error: BaseException) -> BaseException:
    while error.__cause__ is not None:
        error = error.__cause__
    return error
