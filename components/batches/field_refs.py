"""Descriptions of named fields, and of the task that a network is trained for, as they travel between steps."""

from collections.abc import Mapping, Sequence
from typing import Literal

from pydantic import BaseModel, ConfigDict

FieldKind = Literal["image", "values", "ids", "mask", "audio", "lengths"]
"""Pixels, plain numbers, whole numbers from 0, a class for each pixel, waveforms, and lengths of ragged samples."""

TextForm = Literal["", "words", "spaces", "whole"]
"""Form of texts that became ids: lists of words with punctuation apart, lists of words that spaces separate, or whole
texts; empty of fields that held no texts."""

LENGTHS = "lengths"
"""Name of the field with the lengths of ragged samples. ``forward`` gets them by this name, too."""

OWN_LENGTHS, OWN_MASK = "_lengths", "_mask"
"""Endings that, behind the name of a ragged field, name its lengths and its mask."""

TARGET_NAMES = ("label", "labels", "target", "targets", "y", "mask", "masks", "tag", "tags", "class", "classes")
"""Names of fields that are targets, unless the data names its targets."""


class Description(BaseModel):
    """A frozen value."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class SoundRules(Description):
    """How sound files become waveforms: float32 from -1 to 1, (steps,), or (steps, channels) of several channels."""

    rate: int
    """Steps a second, Hz."""
    resample: bool = False
    """True if files of other rates are resampled; else they are refused."""
    mono: bool = False
    """True if channels are averaged; else files of another number of channels are refused."""


class FieldRef(Description):
    """A named field of a data set: an array (N, …) for each split, in ``{split}_{file}.npy``."""

    name: str
    """Name in a batch, for example ``image``."""
    file: str
    kind: FieldKind
    shape: tuple[int, ...]
    """Shape of a sample; the first side of a ragged field is that of the longest sample."""
    dtype: str
    """Type of the stored array."""
    is_target: bool = False
    """True if no network takes the field as an input."""
    mean: tuple[float, ...] = ()
    """Mean of each channel or feature of the training split, in the field's own units; empty of whole numbers."""
    std: tuple[float, ...] = ()
    size: int = 0
    """Number of different ids or classes, counted from 0; 0 of other kinds."""
    names: tuple[str, ...] = ()
    """Names of ids or classes, or of labels that are 0 or 1 each; empty if nobody named them."""
    renumbered: tuple[int, ...] = ()
    """Ids that replace the stored ones, in their order, since other data names them in another order; empty if stored
    ids stay."""
    season: int = 0
    """Steps of a season of a time series; 0 of other fields."""
    ragged: bool = False
    """True if samples have different lengths."""
    lengths: str = LENGTHS
    """Name of the field that holds the lengths of ragged samples; fields of the same lengths share it."""
    padding: int = 0
    """Value behind the end of ragged samples."""
    text: TextForm = ""
    sound: SoundRules | None = None
    """How sound files become the field; None of fields that are no sound."""

    @property
    def length_axis(self) -> str:
        """Name of the free axis of a ragged field: the same for fields of the same lengths."""
        return "length" if self.lengths == LENGTHS else f"{self.lengths.removesuffix(OWN_LENGTHS)}_length"

    def words(self) -> str:
        """Return the field in words, for example ``image (image, uint8 3x64x64)``."""
        shape = "x".join(map(str, self.shape))
        return f"{self.name} ({self.kind}, {' '.join(filter(None, (self.dtype, shape)))})"


class TaskRef(Description):
    """A task with named fields: ``segmentation`` or ``file.py:Class``."""

    reference: str
    args: dict[str, object] = {}
    measure: str = "loss"
    """Main measure."""
    better: Literal["higher", "lower"] = "lower"
    """Direction in which the main measure improves."""
    outputs: int = 0
    """Outputs of a network for each sample; 0 if the fields tell."""
    noise: dict[str, tuple[int, ...]] = {}
    """Shapes of random inputs of a sample by name."""

    @property
    def title(self) -> str:
        """Name of the task or of its class."""
        return self.reference.rpartition(":")[2]


def lengths_fields(fields: Sequence[FieldRef]) -> list[FieldRef]:
    """Return the fields of lengths that ragged fields need, in the order of these; of any data set.

    Example:
        >>> [field.name for field in lengths_fields(named_fields(data))]  # doctest: +SKIP
        ['lengths', 'answer_lengths']
    """
    names = dict.fromkeys(field.lengths for field in fields if field.ragged)
    return [FieldRef(name=name, file=name, kind="lengths", shape=(), dtype="int64") for name in names]


def inputs_of(fields: Sequence[FieldRef]) -> list[FieldRef]:
    """Return the fields that a network may take, without lengths."""
    return [field for field in fields if not field.is_target and field.kind != "lengths"]


def noise_fields(noise: Mapping[str, Sequence[int]]) -> list[FieldRef]:
    """Return the fields of random inputs, which no file holds, from their shapes by name."""
    return [
        FieldRef(name=name, file="", kind="values", shape=tuple(shape), dtype="float32")
        for name, shape in noise.items()
    ]
