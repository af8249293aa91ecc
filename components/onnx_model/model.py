"""An exported ONNX file: checked before it is loaded, with its inputs, outputs and labels."""

import math
import re
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from google.protobuf.message import DecodeError

from torchmill.components import fields, tasks
from torchmill.components.data.encoding import Encoding, read_encoding
from torchmill.components.encoding.columns import Columns
from torchmill.components.encoding.vocabulary import Vocabulary
from torchmill.components.errors import UserError, nearest, shortened
from torchmill.components.onnx_model import names
from torchmill.components.onnx_model.bare import fixed_sizes, is_bare, standardized
from torchmill.components.onnx_model.feed import fed, takes_cells
from torchmill.components.onnx_model.proto import metadata_of, read_without_weights
from torchmill.components.onnx_model.session import open_session
from torchmill.components.onnx_model.sizes import EXPORTED, check_memory, check_tensors
from torchmill.components.reading.rules import ReadingRules
from torchmill.components.refs import DataRef
from torchmill.components.state_files import Damaged, parse_json

if TYPE_CHECKING:
    import onnxruntime

TAKEN: dict[str, Any] = {
    "tensor(uint8)": np.uint8,
    "tensor(int64)": np.int64,
    "tensor(float)": np.float32,
    "tensor(double)": np.float64,
    "tensor(string)": object,
}


@dataclass(frozen=True, eq=False)
class OnnxModel:
    """A model that is ready to answer.

    Example:
        >>> model = open_model(Path("model.onnx"))  # doctest: +SKIP
        >>> model.answers(np.zeros((1, 1, 28, 28), np.uint8)).shape  # doctest: +SKIP
        (1, 10)
    """

    file: Path
    session: "onnxruntime.InferenceSession"
    kind: str
    task: str
    labels: tuple[str, ...]
    """Names of classes, labels or targets; their numbers if the file has no names."""
    shape: tuple[int, ...]
    """Shape of one input. Images: channels, height, width; tokens: the longest sequence; numbers: features first."""
    metadata: dict[str, str] = field(default_factory=dict)
    """Metadata of the file, by key."""

    @cached_property
    def vocabulary(self) -> Vocabulary:
        """Vocabulary of a model of texts.

        Raises:
            UserError: the file has none.
        """
        try:
            return Vocabulary.from_json(self.metadata[names.VOCABULARY])
        except (KeyError, Damaged) as error:
            raise UserError(f"{self.file} takes tokens, and has no vocabulary for them.", EXPORTED) from error

    @cached_property
    def columns(self) -> Columns | None:
        """Columns of the training table: all inputs, or the column of texts; None if the file doesn't name them."""
        try:
            columns = Columns.from_json(self.metadata[names.COLUMNS])
        except (KeyError, Damaged):
            return None
        fits = len(columns.features) == (1 if self.field.is_sequence else math.prod(self.shape))
        return columns if fits else None

    @cached_property
    def rules(self) -> ReadingRules:
        """Training's rules for reading files; the usual ones if the model names none."""
        try:
            return ReadingRules.from_json(self.metadata[names.RULES])
        except (KeyError, Damaged):
            return ReadingRules()

    @property
    def is_bare(self) -> bool:
        """True for a network alone, whose inputs are prepared here."""
        return is_bare(self.metadata)

    @property
    def encoding(self) -> Encoding | None:
        """Encoding of its inputs; None for images, and if the file has none."""
        return self.vocabulary if self.field.is_sequence else self.columns

    @cached_property
    def _outputs(self) -> list[str]:
        return [output.name for output in self.session.get_outputs()]

    @property
    def field(self) -> fields.Field:
        """The code for this kind of inputs."""
        return fields.field(self.kind)

    @property
    def task_object(self) -> tasks.LabelTask:
        """The task's own code."""
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
        """Divisor of the logits before they become probabilities; 1 if the file has none."""
        try:
            value = float(self.metadata.get(names.TEMPERATURE, "1"))
        except ValueError:
            return 1.0
        return value if math.isfinite(value) and value > 0 else 1.0

    def _run(self, output: str, inputs: np.ndarray) -> np.ndarray:
        taken = self.session.get_inputs()
        sizes, kinds = {value.name: value.shape for value in taken}, {value.name: TAKEN[value.type] for value in taken}
        requested = output if output in self._outputs else self._outputs[0]
        most = fixed_sizes(taken[0].shape)[0] or max(1, len(inputs))
        batches = [inputs[start : start + most] for start in range(0, max(1, len(inputs)), most)]
        values = []
        try:
            for batch in batches:
                arrays = fed(batch, self.metadata, sizes)
                arrays = {name: np.ascontiguousarray(array, kinds[name]) for name, array in arrays.items()}
                values.append(np.asarray(self.session.run([requested], arrays)[0])[: len(batch)])
        except Exception as error:  # onnxruntime's errors share no base class
            raise UserError(f"{self.file} does not take these inputs: {' '.join(str(error).split())[:300]}") from error
        return np.concatenate(values)

    def unlike(self, data: DataRef) -> str:
        """Return the reason why the model can't answer a data set; empty if it can."""
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
        return self.rules.unlike(data.rules) if self.field.is_picture else ""

    @cached_property
    def takes_any_size(self) -> bool:
        """True if it takes images of any height and width."""
        sizes = self.session.get_inputs()[0].shape[1:]
        return self.field.is_picture and not all(isinstance(size, int) for size in sizes)


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
    """Open an ONNX file on the CPU, after a check of its sizes and of the files that it refers to.

    Raises:
        UserError: the file is missing, is not ONNX, refers to files outside of its folder, does not fit into memory,
            or was not exported by Torchmill.
    """
    proto = read_checked(file)
    if names.FIELDS in metadata_of(proto):
        raise UserError(
            f"{file} is of a task over named fields.", "`torchmill predict` takes it, and `torchmill evaluate RUN`."
        )
    session = _session(file)
    _check_interface(session, file)
    taken = {value.name: value.type for value in session.get_inputs()}
    if not takes_cells(taken) and (len(taken) != 1 or not TAKEN.keys() >= set(taken.values())):
        inputs = ", ".join(f"{taken.name} ({taken.type})" for taken in session.get_inputs())
        raise UserError(f"{file} takes {inputs}: not one input of pixels, tokens or numbers.", EXPORTED)
    metadata = metadata_of(proto)
    kind = _kind(session, metadata, file)
    task = _task(session, metadata)
    labels = _labels(session, metadata, file)
    _check_standardization(session, metadata, kind, file)
    return OnnxModel(file, session, kind, task, labels, _shape(session, kind, metadata, file), metadata)


def read_checked(file: Path) -> onnx.ModelProto:
    """Read an ONNX file without its weights, after a check of its sizes and of the files that it refers to.

    Raises:
        UserError: the file is missing, is not ONNX, refers to files outside of its folder, or does not fit into memory.
    """
    proto = _parsed(file)
    check_tensors(proto, file)
    return proto


def _parsed(file: Path) -> onnx.ModelProto:
    try:
        size = file.stat().st_size
        if not file.is_file():
            raise IsADirectoryError(21, "it is a folder")
    except OSError as error:
        beside = [path.name for path in file.parent.glob("*.onnx")] if file.parent.is_dir() else []
        raise UserError(f"Cannot read {file}: {error.strerror}.", nearest(file.name, beside)) from None
    check_memory(file, size)
    try:
        proto = read_without_weights(file)
    except DecodeError:
        raise UserError(f"{file} is not an ONNX file.", EXPORTED) from None
    except OSError as error:
        raise UserError(f"Cannot read {file}: {error.strerror}.") from None
    if not (proto.ir_version and proto.graph.node and proto.graph.input):  # an empty file, and some others, do parse
        raise UserError(f"{file} is not an ONNX file.", EXPORTED)
    return proto


def _session(file: Path) -> "onnxruntime.InferenceSession":
    try:
        return open_session(file, spinning=False)  # the next inputs are decoded meanwhile
    except Exception as error:  # onnxruntime's errors share no base class
        raise UserError(f"onnxruntime cannot run {file}: {' '.join(str(error).split())[:300]}", EXPORTED) from error


def _check_interface(session: "onnxruntime.InferenceSession", file: Path) -> None:
    try:
        outputs = [(output.name, output.shape[-1]) for output in session.get_outputs()]
        inputs = [(taken.name, taken.shape[0]) for taken in session.get_inputs()]
    except (UnicodeDecodeError, LookupError, TypeError) as error:
        raise UserError(f"{file} has inputs or outputs without names or sizes: {error}.", EXPORTED) from error
    if not (inputs and outputs):
        raise UserError(f"{file} has no inputs or no outputs.", EXPORTED)


def _kind(session: "onnxruntime.InferenceSession", metadata: dict[str, str], file: Path) -> str:
    """Return the kind in the metadata; for old files without it, the kind that the input's name implies."""
    if takes_cells([taken.name for taken in session.get_inputs()]):
        return next(name for name in fields.names() if metadata.get(names.KIND) == name)
    (taken,) = session.get_inputs()
    by_input = {fields.field(name).onnx_input: name for name in fields.names()}
    kind = name if (name := metadata.get(names.KIND)) in fields.names() else by_input.get(taken.name)
    if kind is not None and is_bare(metadata) and taken.name == fields.field(kind).bare_input:
        return kind
    if kind is None or fields.field(kind).onnx_type != taken.type:
        raise UserError(
            f"{file} takes '{taken.name}' ({taken.type}), and does not say how raw inputs become that.", EXPORTED
        )
    return kind


def _check_standardization(
    session: "onnxruntime.InferenceSession", metadata: dict[str, str], kind: str, file: Path
) -> None:
    """Refuse a bare model of images that does not say how pixels become its inputs."""
    if not (is_bare(metadata) and fields.field(kind).is_picture):
        return
    channels, height, width = (size or 1 for size in fixed_sizes(session.get_inputs()[0].shape[1:]))
    try:
        standardized(np.zeros((1, channels, height, width), np.uint8), metadata)
    except (KeyError, Damaged, ValueError) as error:
        raise UserError(
            f"{file} takes standardised pixels, and does not say by which mean and deviation.", EXPORTED
        ) from error


def _task(session: "onnxruntime.InferenceSession", metadata: dict[str, str]) -> str:
    """Return the task in the metadata; for old files without it, the task that their outputs imply."""
    if (name := metadata.get(names.TASK)) in tasks.names():
        return str(name)
    outputs = [output.name for output in session.get_outputs()]
    description = metadata.get(names.OUTPUT, "")
    return next((name for name in tasks.names() if tasks.task(name).exported(outputs, description)), tasks.DEFAULT)


def _labels(session: "onnxruntime.InferenceSession", metadata: dict[str, str], file: Path) -> tuple[str, ...]:
    width = session.get_outputs()[0].shape[-1]
    try:
        labels = tuple(map(str, parse_json(metadata[names.CLASSES], tuple[str | int | float, ...])))
    except KeyError:
        labels = tuple(map(str, range(width))) if isinstance(width, int) else ()
    except Damaged:
        labels = ()
    if not labels or (isinstance(width, int) and len(labels) != width):
        raise UserError(f"{file} has {len(labels)} labels in its metadata for {width} outputs.", EXPORTED)
    return labels


def _shape(session: "onnxruntime.InferenceSession", kind: str, metadata: dict[str, str], file: Path) -> tuple[int, ...]:
    noted = tuple(int(size) for size in re.findall(r"[0-9]{1,9}", metadata.get(names.SHAPE, "")))
    if fields.field(kind).is_sequence or takes_cells([taken.name for taken in session.get_inputs()]):
        return noted
    (taken,) = session.get_inputs()
    fixed = tuple(taken.shape[1:])
    if all(isinstance(size, int) for size in fixed):
        return noted if len(noted) == len(fixed) and sorted(noted) == sorted(fixed) else fixed
    if len(noted) == len(fixed):
        return noted
    raise UserError(f"{file} takes inputs of any size, and does not say of which it was trained on.", EXPORTED)


def _sizes(shape: tuple[int, ...]) -> str:
    return "×".join(map(str, shape))
