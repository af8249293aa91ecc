"""Kinds of inputs: one file per kind, found by the ``NAME`` in it. Looking names up imports no kind."""

import functools
import inspect
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, cast

from torchmill.components.errors import UserError, nearest
from torchmill.components.reading.rules import USUAL, ReadingRules
from torchmill.components.settings.options import Room

if TYPE_CHECKING:
    import numpy as np
    from onnx import ModelProto
    from torch import Tensor

    from torchmill.components.batches.field_refs import FieldKind
    from torchmill.components.data.samples import Samples
    from torchmill.components.encoding.columns import Columns
    from torchmill.components.encoding.vocabulary import Vocabulary

Sums = dict[str, Any]
"""Sums over inputs by name, which can be added up."""


class CardCode(NamedTuple):
    """Python for the model card that reads inputs."""

    read: str
    """Definition of ``read(item)``, which returns an input without its batch dimension."""
    items: str
    """Expression for pairs of a name and an item, from the command line."""
    arguments: str
    """Example of the arguments on the command line."""


class Field(Protocol):
    """Everything in which kinds of inputs differ. A kind is a plain class with these members in a file of this folder.

    The file's constant ``NAME`` is the name in the records. A network takes such inputs if its constructor has one of
    the arguments in ``ARGUMENTS``.
    """

    name: str
    samples: str
    """Samples in words."""
    shape_words: str
    """Shape of the inputs in words."""
    pool_over: str
    """Dimensions that a network pools over, in words."""
    feature_word: str
    """An entry of mean and deviation in words."""

    is_picture: bool
    """True if inputs are drawn and augmented as pictures, and may have any height and width."""
    is_sequence: bool
    """True if inputs are sequences of ids from a vocabulary, padded at the end."""
    can_mix: bool
    """True if mixup can mix inputs."""
    padding: int | None
    """Id that pads a sequence."""
    unit: float
    """Factor of mean and deviation: 255 if they are those of pixels scaled to 0…1."""

    batch_name: str
    """Name of such inputs in a batch of named fields."""
    batch_kind: "FieldKind"
    """Their kind there."""

    onnx_input: str
    """Name of the ONNX model's input."""
    onnx_type: str
    """Its type, as onnxruntime writes it."""
    bare_input: str
    """Name of the bare model's input, which the network itself takes."""
    dynamic_axes: tuple[str, ...]
    """Names of the first dimensions of the input, which are free."""

    def arguments(self, shape: tuple[int, ...], vocabulary_size: int) -> dict[str, int]:
        """Return the arguments that a network's constructor may ask for, by name."""
        ...

    def recognizes(self, inputs: "np.ndarray", has_vocabulary: bool) -> bool:
        """Return whether inputs of a data set are of this kind."""
        ...

    def faults(self, inputs: "np.ndarray", vocabulary_size: int | None) -> list[str]:
        """Return the faults of inputs, in words."""
        ...

    def statistics(self, inputs: "np.ndarray") -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Return mean and deviation per channel or feature; empty if inputs are not standardised."""
        ...

    def read_encoding(self, folder: Path) -> "Vocabulary | Columns | None":
        """Return the encoding in the folder of a data set; None without one."""
        ...

    def blank(self, shape: tuple[int, ...], samples: int) -> "Tensor":
        """Return inputs without content, as a network takes them."""
        ...

    def measures(self, samples: "Samples") -> Iterator[tuple[str, str, "np.ndarray"]]:
        """Yield measures of each input: name, unit and values (N,)."""
        ...

    def describe_input(
        self, shape: tuple[int, ...], columns: "Columns | None" = None, rules: ReadingRules = USUAL
    ) -> tuple[str, str]:
        """Return the input of the ONNX model and its preprocessing, in words for its metadata."""
        ...

    def describe_bare_input(
        self, shape: tuple[int, ...], columns: "Columns | None" = None, rules: ReadingRules = USUAL
    ) -> tuple[str, str]:
        """Return the input of the bare ONNX model, and what has to be done before, in words for its metadata."""
        ...

    def preprocessing(
        self,
        shape: tuple[int, ...],
        vocabulary_size: int,
        rules: ReadingRules = USUAL,
        columns: "Columns | None" = None,
    ) -> "ModelProto | None":
        """Return a graph from raw inputs to those of training; None if they are the same."""
        ...

    def card_code(self, shape: tuple[int, ...], rules: ReadingRules, columns: "Columns | None") -> CardCode:
        """Return Python for the model card that reads inputs."""
        ...

    def batch(self, samples: Sequence[Any], vocabulary: "Vocabulary | None") -> "np.ndarray":
        """Return single inputs, as predict reads them, as one array."""
        ...

    def batch_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Return the shape of a large input, which limits the batch."""
        ...

    def sums(self, inputs: "np.ndarray", columns: "Columns | None") -> Sums:
        """Return sums over inputs, to compare them with those of training."""
        ...

    def drift(self, total: Mapping[str, Any]) -> dict[str, Any]:
        """Return entries of the drift note for inputs that have no mean."""
        ...


FIELDS = Room(Path(__file__).parent)
DEFAULT = "images"
"""Kind of data sets that name none."""


def _files() -> dict[str, str]:
    return {FIELDS[file].constant("NAME", file): file for file in FIELDS.names()}


def names() -> list[str]:
    """Return the names of all kinds."""
    return sorted(_files())


def file_of(name: str) -> Path:
    """Return the file of a kind."""
    return FIELDS[_files()[name]].file


def arguments_of(name: str) -> tuple[str, ...]:
    """Return the arguments of networks that take this kind, without importing it."""
    return FIELDS[_files()[name]].constant("ARGUMENTS", ())


def checked(name: str) -> str:
    """Return a name if there is such a kind.

    Raises:
        ValueError: there is none.
    """
    if name not in _files():
        raise ValueError(f"unknown kind of inputs {name!r}. {nearest(name, names())}")
    return name


@functools.cache
def _instance(file: str) -> Field:
    module = FIELDS.load(file)
    (cls,) = (cls for _, cls in inspect.getmembers(module, inspect.isclass) if cls.__module__ == module.__name__)
    return cast(Field, cls())


def field(name: str) -> Field:
    """Return a kind of inputs.

    Raises:
        UserError: there is no such kind.

    Example:
        field("tokens").onnx_input
    """
    if name not in _files():
        raise UserError(f"Unknown kind of inputs {name!r}.", nearest(name, names()))
    return _instance(_files()[name])


def of_batch(kind: "FieldKind") -> str:
    """Return the name of the kind of inputs that named fields of a kind are."""
    return next(name for name in names() if field(name).batch_kind == kind)


def recognized(inputs: "np.ndarray", has_vocabulary: bool) -> str:
    """Return the kind of a data set's inputs.

    Raises:
        UserError: no kind recognizes them.
    """
    for name in names():
        if field(name).recognizes(inputs, has_vocabulary):
            return name
    raise UserError(f"Inputs of {inputs.dtype} {inputs.shape} are of no known kind.", f"Known: {', '.join(names())}.")
