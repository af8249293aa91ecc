"""Run an ONNX model whose inputs and outputs are named over samples of named fields."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from pydantic import ValidationError
from torch import Tensor

from torchmill.components.batches.field_refs import FieldRef
from torchmill.components.data.field_samples import FieldSamples
from torchmill.components.encoding.texts import TextEncoding, of_files
from torchmill.components.errors import UserError
from torchmill.components.onnx_model import names
from torchmill.components.onnx_model.sizes import EXPORTED
from torchmill.components.state_files import Damaged, parse_json

if TYPE_CHECKING:
    import onnxruntime

Arrays = dict[str, np.ndarray]


def fields_taken(metadata: Mapping[str, str]) -> list[FieldRef]:
    """Return the inputs of a model of a task over named fields, which its metadata describes.

    Entries that another version of Torchmill knows are ignored if they are empty: the field doesn't use them.

    Raises:
        UserError: the description is damaged, or another version's.
    """
    try:
        entries = parse_json(metadata[names.FIELDS], list[dict[str, Any]])
        known = [
            {key: value for key, value in entry.items() if value or key in FieldRef.model_fields} for entry in entries
        ]
        return [FieldRef(**entry) for entry in known]
    except (Damaged, ValidationError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"The model's description of its inputs can't be read: {reason}", EXPORTED) from None


def encoding_of(metadata: Mapping[str, str]) -> TextEncoding | None:
    """Return the encoding of a model's texts; None if its metadata has none.

    Raises:
        UserError: the metadata is damaged, or the library of its tokenizer is not installed.
    """
    keys = (names.VOCABULARY, names.TOKENIZER)
    try:
        return of_files({f"{key}.json": metadata[key] for key in keys if key in metadata})
    except Damaged as error:
        raise UserError(f"The vocabulary of the model is damaged: {error}", EXPORTED) from error


def stored_fields(samples: FieldSamples, fields: Sequence[FieldRef], indices: Tensor) -> dict[str, Tensor]:
    """Return fields of some samples as the exported model takes them; random ones are drawn by a fixed seed."""
    batch, rng = samples.take(indices), torch.Generator().manual_seed(0)
    return {
        field.name: _as_input(batch[field.name])
        if field.name in batch
        else torch.randn(len(indices), *field.shape, generator=rng)
        for field in fields
    }


def _as_input(values: Tensor) -> Tensor:
    """Return a field in the model's type; contiguous, since exports of cut, ragged samples would read their strides."""
    return (values.long() if values.dtype in (torch.int32, torch.int16) else values).contiguous()


def answers_of(session: "onnxruntime.InferenceSession", inputs: Mapping[str, Tensor | np.ndarray], size: int) -> Arrays:
    """Return the named answers of a model to stored fields, in batches of one size."""
    outputs = [output.name for output in session.get_outputs()]
    taken = {entry.name for entry in session.get_inputs()}
    samples = len(next(iter(inputs.values())))
    batches = []
    for start in range(0, samples, size):
        part = {name: np.asarray(values[start : start + size]) for name, values in inputs.items() if name in taken}
        batches.append(session.run(outputs, part))
    return {name: np.concatenate([batch[at] for batch in batches]) for at, name in enumerate(outputs)}
