"""The fields of a data set by name, and the facts about them that constructors may ask for."""

import math
from typing import Any

from torchmill.components.batches.field_refs import FieldRef, inputs_of
from torchmill.components.encoding import vocabulary
from torchmill.components.encoding.vocabulary import Vocabulary
from torchmill.components.refs import DataRef

IGNORED, IGNORED_PIXEL = -100, 255
"""Class of positions that no loss and no measure counts: in batches, as torch has it, and in stored masks."""


def named_fields(data: DataRef) -> tuple[FieldRef, ...]:
    """Return the fields of a data set; of one with labels ``image``, ``tokens`` or ``features``, and ``label``."""
    return data.field_refs or (_input(data), _label(data))


def _input(data: DataRef) -> FieldRef:
    is_sequence, unit = data.field.is_sequence, data.field.unit
    file = data.folder / vocabulary.FILE
    names = Vocabulary.from_json(file.read_text(encoding="utf-8")).tokens if is_sequence and file.is_file() else ()
    dtypes = {"image": "uint8", "ids": "int32"}
    return FieldRef(
        name=data.field.batch_name,
        file="inputs",
        kind=data.field.batch_kind,
        shape=data.shape,
        dtype=dtypes.get(data.field.batch_kind, "float32"),
        mean=tuple(unit * value for value in data.mean),
        std=tuple(unit * value for value in data.std),
        size=data.vocabulary_size,
        ragged=is_sequence,
        names=tuple(names),
    )


def _label(data: DataRef) -> FieldRef:
    if data.task_object.is_exclusive:
        return FieldRef(
            name="label",
            file="labels",
            kind="ids",
            shape=(),
            dtype="int64",
            is_target=True,
            size=len(data.classes),
            names=data.classes,
        )
    return FieldRef(
        name="label",
        file="labels",
        kind="values",
        shape=(len(data.classes),),
        dtype="float32",
        is_target=True,
        mean=data.target_mean,
        std=data.target_units,
        names=data.classes,
    )


def answer_names(data: DataRef) -> list[str]:
    """Return the names of the classes that models of a data set answer; empty if its targets have none."""
    named = [list(field.names) for field in named_fields(data) if field.is_target and field.names]
    return named[0] if len(named) == 1 else list(data.classes)


def facts(data: DataRef) -> dict[str, Any]:
    """Return the arguments that a task or a network may ask for by name.

    - ``num_classes``: outputs that the task asks for, or classes of the only target that has some
    - ``in_channels``, ``image_size``, ``image_height``, ``image_width``: of the only image among the inputs
    - ``vocab_size``, ``num_embeddings``, ``padding_index``, ``max_length``: of the only ids among the inputs
    - ``in_features``, ``in_channels``: of the only numbers among the inputs; of ragged ones, numbers of each step
    - ``sample_rate``: of the only waveforms, Hz
    - ``horizon``, ``season``: of the only target of numbers in a row, steps to forecast, and of a time series' season
    - ``fields``: all fields by name
    """
    fields = named_fields(data)
    values: dict[str, Any] = {}
    classes = [field for field in fields if field.is_target and field.size]
    if data.goal and data.goal.outputs:
        values["num_classes"] = data.goal.outputs
    elif len(classes) == 1:
        values["num_classes"] = classes[0].size
    elif data.classes:
        values["num_classes"] = len(data.classes)
    inputs = inputs_of(fields)
    images = [field for field in inputs if field.kind == "image"]
    if len(images) == 1:
        channels, height, width = images[0].shape
        values |= {"in_channels": channels, "image_size": height, "image_height": height, "image_width": width}
    ids = [field for field in inputs if field.kind == "ids"]
    if len(ids) == 1:
        values |= {"vocab_size": ids[0].size, "num_embeddings": ids[0].size, "padding_index": ids[0].padding}
        values |= {"max_length": ids[0].shape[0]} if ids[0].shape else {}
    numbers = [field for field in inputs if field.kind in ("values", "audio")]
    if len(numbers) == 1 and numbers[0].shape:
        values = _facts_of_numbers(numbers[0]) | values
    steps = [field for field in fields if field.is_target and field.kind == "values"]
    if len(steps) == 1 and len(steps[0].shape) == 1:
        values["horizon"] = steps[0].shape[0]
        values |= {"season": steps[0].season} if steps[0].season else {}
    return values | {"fields": {field.name: field for field in fields}}


def _facts_of_numbers(field: FieldRef) -> dict[str, Any]:
    sides = field.shape[1:] if field.ragged else field.shape
    channels = (field.shape[-1] if len(field.shape) > 1 else 1) if field.ragged or field.sound else field.shape[0]
    rate = {"sample_rate": field.sound.rate} if field.sound else {}
    return {"in_features": math.prod(sides), "in_channels": channels, **rate}
