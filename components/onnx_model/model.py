"""An ONNX file as it was exported, looked at before it is loaded: what it takes, what it gives, what its names mean."""

import json
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import psutil
from google.protobuf.message import DecodeError

from torchmill.components import fields, tasks
from torchmill.components.data.encoding import Encoding, read_encoding
from torchmill.components.encoding.columns import Columns
from torchmill.components.encoding.vocabulary import Vocabulary
from torchmill.components.errors import UserError, nearest, shortened
from torchmill.components.onnx_model import names
from torchmill.components.onnx_model.session import open_session
from torchmill.components.refs import DataRef

if TYPE_CHECKING:
    import onnxruntime

TAKEN = {"tensor(uint8)": np.uint8, "tensor(int64)": np.int64, "tensor(float)": np.float32}
COPIES = 3  # of the weights, at least: the file's, the parsed ones and the session's
PLAIN_MEMORY = 64e6  # what nobody needs to count
LARGEST_INFERRED = 1.5e9  # bytes; beyond 2 GB onnx infers nothing
EXPORTED = "Give one that `torchmill train` has exported."


@dataclass(frozen=True, eq=False)
class OnnxModel:
    """A model that can be asked."""

    file: Path
    session: "onnxruntime.InferenceSession"
    kind: str
    task: str
    labels: tuple[str, ...]
    """Names of classes, labels or targets; their numbers where the file has no names."""
    shape: tuple[int, ...]
    """Of one input. Images: channels, height, width; tokens: the longest sequence; numbers: features first."""
    metadata: dict[str, str] = field(default_factory=dict)
    """All that the file says of itself."""

    @cached_property
    def vocabulary(self) -> Vocabulary:
        """Of texts.

        Raises:
            UserError: the file has none.
        """
        try:
            return Vocabulary.from_json(self.metadata[names.VOCABULARY])
        except (KeyError, ValueError, TypeError) as error:
            raise UserError(f"{self.file} takes tokens, and has no vocabulary for them.", EXPORTED) from error

    @cached_property
    def columns(self) -> Columns | None:
        """Of the table that it was trained on: of numbers all, of texts the one that held them; None where the file
        does not name them."""
        try:
            columns = Columns.from_json(self.metadata[names.COLUMNS])
        except (KeyError, ValueError, TypeError):
            return None
        fits = len(columns.features) == (1 if self.field.is_sequence else math.prod(self.shape))
        return columns if fits else None

    @property
    def encoding(self) -> Encoding | None:
        """Of its inputs; None of images, and where the file does not tell."""
        return self.vocabulary if self.field.is_sequence else self.columns

    @cached_property
    def takes(self) -> tuple[str, Any]:
        """Name and type of the input."""
        (taken,) = self.session.get_inputs()
        return taken.name, TAKEN[taken.type]

    @cached_property
    def _outputs(self) -> list[str]:
        return [given.name for given in self.session.get_outputs()]

    @property
    def field(self) -> fields.Field:
        """Everything that depends on the kind of inputs."""
        return fields.field(self.kind)

    @property
    def task_object(self) -> tasks.Task:
        """Everything that depends on the task."""
        return tasks.task(self.task)

    def outputs(self, inputs: np.ndarray) -> np.ndarray:
        """Return the logits, or the values of a regression: float32, (N, K)."""
        return self._run(self.task_object.onnx_output, inputs)

    def answers(self, inputs: np.ndarray) -> np.ndarray:
        """Return probabilities, of each class or of each label; or the values of a regression: float32, (N, K)."""
        if not self.task_object.has_probabilities or names.PROBABILITIES not in self._outputs:
            return self.probabilities(self.outputs(inputs))
        return self._run(names.PROBABILITIES, inputs)

    def probabilities(self, outputs: np.ndarray) -> np.ndarray:
        """Return the probabilities of logits; values of a regression stay as they are."""
        return self.task_object.probabilities(outputs, self.temperature).astype(outputs.dtype)

    @cached_property
    def temperature(self) -> float:
        """What logits are divided by before they become probabilities; 1 where the file says nothing."""
        try:
            value = float(self.metadata.get(names.TEMPERATURE, "1"))
        except ValueError:
            return 1.0
        return value if math.isfinite(value) and value > 0 else 1.0

    def _run(self, output: str, inputs: np.ndarray) -> np.ndarray:
        name, kind = self.takes
        wanted = output if output in self._outputs else self._outputs[0]
        try:
            (given,) = self.session.run([wanted], {name: np.ascontiguousarray(inputs, kind)})
        except Exception as error:  # onnxruntime's errors have no base of their own
            raise UserError(f"{self.file} does not take these inputs: {' '.join(str(error).split())[:300]}") from error
        return np.asarray(given)

    def unlike(self, data: DataRef) -> str:
        """Say what keeps the model from being asked about a data set; empty if nothing does."""
        if self.kind != data.kind or self.task != data.task:
            return f"is for {self.task} of {self.kind}, not for {data.task} of {data.kind}"
        if self.labels != data.classes:
            ours, theirs = (f"{len(names)} ({shortened(names, 3)})" for names in (self.labels, data.classes))
            return f"knows {ours}, and not {theirs}"
        match self.encoding, read_encoding(data):
            case Vocabulary() as ours, Vocabulary() as theirs:
                return _unlike_vocabulary(ours, theirs)
            case Columns() as ours, Columns() as theirs:
                return _unlike_columns(ours, theirs)
        if not self.takes_any_size and self.shape != data.shape:
            return f"takes inputs of {_sizes(self.shape)}, not of {_sizes(data.shape)}"
        return ""

    @cached_property
    def takes_any_size(self) -> bool:
        """Whether images of any height and width go through it."""
        (taken,) = self.session.get_inputs()
        return self.field.is_picture and not all(isinstance(size, int) for size in taken.shape[1:])


def _unlike_vocabulary(ours: Vocabulary, theirs: Vocabulary) -> str:
    if ours.cut != theirs.cut:
        return f"cuts texts into {ours.cut}, not into {theirs.cut}"
    if ours.max_length > theirs.max_length:
        return f"reads {ours.max_length} tokens of a text, of which the data set keeps {theirs.max_length}"
    lost = [token for token in ours.tokens if token not in theirs.ids]
    return f"knows more tokens than the data set: {len(lost)} ({shortened(lost, 3)})" if lost else ""


def _unlike_columns(ours: Columns, theirs: Columns) -> str:
    try:
        ours.translation(theirs)
    except UserError as error:
        return f"does not take these columns ({error.message.rstrip('.')})"
    lost = [f"{name} = {kinds[0]}" for name, kinds in theirs.unknown(ours).items()]
    return f"knows more categories than the data set: {len(lost)} ({shortened(lost, 3)})" if lost else ""


def open_model(file: Path) -> OnnxModel:
    """Open an ONNX file on the CPU, after a look at what it would ask for.

    Raises:
        UserError: it is not there, no ONNX file, refers to files outside of its folder, does not fit into the memory,
            or is no model of ours.
    """
    proto = _parsed(file)
    _check_tensors(proto, file)
    session = _session(file)
    if len(session.get_inputs()) != 1 or session.get_inputs()[0].type not in TAKEN:
        told = ", ".join(f"{one.name} ({one.type})" for one in session.get_inputs())
        raise UserError(f"{file} takes {told}: not one input of pixels, tokens or numbers.", EXPORTED)
    metadata = {one.key: one.value for one in proto.metadata_props}
    kind = _kind(session, metadata, file)
    task = _task(session, metadata)
    labels = _labels(session, metadata, file)
    return OnnxModel(file, session, kind, task, labels, _shape(session, kind, metadata, file), metadata)


def _parsed(file: Path) -> onnx.ModelProto:
    try:
        size = file.stat().st_size
        if not file.is_file():
            raise IsADirectoryError(21, "it is a folder")
    except OSError as error:
        beside = [other.name for other in file.parent.glob("*.onnx")] if file.parent.is_dir() else []
        raise UserError(f"Cannot read {file}: {error.strerror}.", nearest(file.name, beside)) from None
    _check_memory(file, size)
    try:
        proto = onnx.load(str(file), load_external_data=False)
    except DecodeError:
        raise UserError(f"{file} is not an ONNX file.", EXPORTED) from None
    except OSError as error:
        raise UserError(f"Cannot read {file}: {error.strerror}.") from None
    if not (proto.ir_version and proto.graph.node and proto.graph.input):  # an empty file, and some others, do parse
        raise UserError(f"{file} is not an ONNX file.", EXPORTED)
    return proto


def _check_memory(file: Path, size: float) -> None:
    free = psutil.virtual_memory().available
    if size > PLAIN_MEMORY and COPIES * size > free:
        raise UserError(
            f"{file} has weights of {size / 1e9:,.1f} GB, and needs about {COPIES * size / 1e9:,.1f} GB of memory: "
            f"{free / 1e9:,.1f} GB are free.",
            "Close other programs, or take a machine with more.",
        )


def _check_tensors(proto: onnx.ModelProto, file: Path) -> None:
    """Refuse tensors that lie outside of the file's folder, or say to be larger than what is there."""
    total = 0
    for tensor in _tensors(proto):
        size = math.prod(tensor.dims) * _width(tensor.data_type)
        total += size
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            _check_external(tensor, file)
        elif tensor.HasField("raw_data") and len(tensor.raw_data) != size:
            raise UserError(
                f"{file} is damaged: its tensor '{tensor.name}' says to have {size:,} bytes, and has "
                f"{len(tensor.raw_data):,}.",
                "Export or copy it again.",
            )
    _check_memory(file, total)
    _check_computed(proto, file)


def _check_computed(proto: onnx.ModelProto, file: Path) -> None:
    """Refuse what a graph makes of next to nothing, as one number repeated ten billion times."""
    if proto.ByteSize() > LARGEST_INFERRED:
        return
    for value in onnx.shape_inference.infer_shapes(proto, data_prop=True).graph.value_info:
        held = value.type.tensor_type
        sides = [side.dim_value if side.HasField("dim_value") else 1 for side in held.shape.dim]
        size = math.prod(sides) * _width(held.elem_type)
        if size > PLAIN_MEMORY and size > (free := psutil.virtual_memory().available) / COPIES:
            raise UserError(
                f"{file} makes a tensor '{value.name}' of {size / 1e9:,.1f} GB, and {free / 1e9:,.1f} GB are free.",
                "Take a machine with more, if you trust the one who gave you this model.",
            )


def _check_external(tensor: onnx.TensorProto, file: Path) -> None:
    held = {one.key: one.value for one in tensor.external_data}
    location = held.get("location", "")
    folder = file.parent.resolve()
    place = (folder / location).resolve()
    if not location or not place.is_relative_to(folder):
        raise UserError(
            f"{file} wants to read '{location}', which is outside of its folder: it is not loaded.",
            "Export it again as one file, and trust the one who gave you this one less.",
        )
    if not place.is_file():
        raise UserError(f"{file} has weights in '{location}', which is not beside it.", "Copy that file, too.")


def _tensors(proto: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    graphs = [proto.graph]
    nodes = [node for function in proto.functions for node in function.node]
    while graphs or nodes:
        if graphs:
            graph = graphs.pop()
            yield from graph.initializer
            for sparse in graph.sparse_initializer:
                yield from (sparse.values, sparse.indices)
            nodes += graph.node
        for node in nodes:
            for attribute in node.attribute:
                yield from attribute.tensors
                if attribute.HasField("t"):
                    yield attribute.t
                graphs += [*attribute.graphs, *([attribute.g] if attribute.HasField("g") else [])]
        nodes = []


def _width(data_type: int) -> float:
    """Bytes of an element; texts count nothing."""
    if data_type in (onnx.TensorProto.STRING, onnx.TensorProto.UNDEFINED):
        return 0
    return onnx.helper.tensor_dtype_to_np_dtype(data_type).itemsize


def _session(file: Path) -> "onnxruntime.InferenceSession":
    try:
        return open_session(file, spinning=False)  # the next inputs are decoded meanwhile
    except Exception as error:  # its errors have no base of their own
        raise UserError(f"onnxruntime cannot run {file}: {' '.join(str(error).split())[:300]}", EXPORTED) from error


def _kind(session: "onnxruntime.InferenceSession", metadata: dict[str, str], file: Path) -> str:
    """Return the kind in the metadata; old files do not name it, and are told by the name of their input."""
    (taken,) = session.get_inputs()
    by_input = {fields.field(name).onnx_input: name for name in fields.names()}
    kind = name if (name := metadata.get(names.KIND)) in fields.names() else by_input.get(taken.name)
    if kind is None or fields.field(kind).onnx_type != taken.type:
        raise UserError(
            f"{file} takes '{taken.name}' ({taken.type}), and does not say how raw inputs become that.", EXPORTED
        )
    return kind


def _task(session: "onnxruntime.InferenceSession", metadata: dict[str, str]) -> str:
    """Return the task in the metadata; old files do not name it, and their outputs are told apart in words."""
    if (name := metadata.get(names.TASK)) in tasks.names():
        return str(name)
    outputs = [output.name for output in session.get_outputs()]
    description = metadata.get(names.OUTPUT, "")
    return next((name for name in tasks.names() if tasks.task(name).exported(outputs, description)), tasks.DEFAULT)


def _labels(session: "onnxruntime.InferenceSession", metadata: dict[str, str], file: Path) -> tuple[str, ...]:
    width = session.get_outputs()[0].shape[-1]
    try:
        labels = tuple(map(str, json.loads(metadata[names.CLASSES])))
    except KeyError:
        labels = tuple(map(str, range(width))) if isinstance(width, int) else ()
    except (ValueError, TypeError):
        labels = ()
    if not labels or (isinstance(width, int) and len(labels) != width):
        raise UserError(f"{file} has {len(labels)} labels in its metadata for {width} outputs.", EXPORTED)
    return labels


def _shape(session: "onnxruntime.InferenceSession", kind: str, metadata: dict[str, str], file: Path) -> tuple[int, ...]:
    said = tuple(int(size) for size in re.findall(r"\d+", metadata.get(names.SHAPE, "")))
    if fields.field(kind).is_sequence:
        return said
    (taken,) = session.get_inputs()
    fixed = tuple(taken.shape[1:])
    if all(isinstance(size, int) for size in fixed):
        return said if len(said) == len(fixed) and sorted(said) == sorted(fixed) else fixed
    if len(said) == len(fixed):
        return said
    raise UserError(f"{file} takes inputs of any size, and does not say of which it was trained on.", EXPORTED)


def _sizes(shape: tuple[int, ...]) -> str:
    return "×".join(map(str, shape))
