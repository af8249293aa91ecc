"""A network that gets the named fields of a batch, and the standardization of these fields."""

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from torchmill.components.batches.batch import Batch
from torchmill.components.batches.field_refs import LENGTHS, OWN_LENGTHS, OWN_MASK, FieldRef, inputs_of, noise_fields
from torchmill.components.data.named_fields import IGNORED, IGNORED_PIXEL, named_fields
from torchmill.components.errors import UserError, nearest
from torchmill.components.refs import DataRef

ATTENTION_MASK = "attention_mask"
"""Parameter by which ``forward`` gets a mask of the tokens of ragged samples: 1 for a token, 0 for padding."""


class FieldsModel(nn.Module):
    """A network that is called with a batch: it gets the fields that its ``forward`` names, or the only input.

    Called with tensors, it is the network itself, and so are its attributes: ``model.encoder`` is the network's.

    Args:
        network: network of the user's.
        fields: fields of the batches.
        channels_last: pass images to the network in the channels-last memory format.

    Raises:
        UserError: ``forward`` needs something that no field offers.

    Example:
        >>> model = FieldsModel.of(network, data)  # doctest: +SKIP
        >>> model(model.prepared(samples.take(indices)))  # doctest: +SKIP
    """

    def __init__(
        self, network: nn.Module, fields: Sequence[FieldRef], reference: str = "", channels_last: bool = False
    ):
        super().__init__()
        self.network = network
        self.memory_format = torch.channels_last if channels_last else torch.preserve_format
        self.fields = {field.name: field for field in fields}
        self.reference = reference
        self._taken: str | dict[str, str] | None = None
        self.takes_tokens = any(field.ragged for field in fields)
        for field in inputs_of(fields):
            if field.mean:
                self.register_buffer(f"offset_{field.name}", torch.tensor(field.mean, dtype=torch.float32))
                spread = torch.tensor([value or 1.0 for value in field.std], dtype=torch.float64)
                self.register_buffer(f"scale_{field.name}", (1 / spread).float())

    @classmethod
    def of(
        cls, network: nn.Module, data: DataRef, reference: str = "", *, channels_last: bool = False
    ) -> "FieldsModel":
        """Wrap a network for the fields of a data set."""
        noise = noise_fields(data.goal.noise) if data.goal else []
        return cls(network, (*named_fields(data), *noise), reference, channels_last)

    @property
    def taken(self) -> str | dict[str, str]:
        """Fields by the parameters of ``forward`` that get them; a single name if it is given by position.

        Raises:
            UserError: ``forward`` needs something that no field offers.
        """
        if self._taken is None:
            self._taken = taken_fields(self.network, list(self.fields.values()), self.reference)
        return self._taken

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        if len(args) == 1 and isinstance(args[0], Mapping):
            batch, taken = args[0], self.taken
            if isinstance(taken, str):
                return self.network(batch[taken], **kwargs)
            arguments = {parameter: self._argument(name, batch) for parameter, name in taken.items()}
            return self.network(**arguments, **kwargs)
        return self.network(*args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            network = self.__dict__.get("_modules", {}).get("network")
            if network is None:
                raise
            return getattr(network, name)

    def prepared(self, batch: Batch) -> Batch:
        """Return a batch with its inputs as networks take them: standardized floats, or int64."""
        fields = {name: self._prepared(name, values) for name, values in batch.raw.items()}
        views = tuple(self.prepared(view) for view in batch.views)
        return Batch(fields, batch.raw, batch.size, views)

    def _argument(self, name: str, batch: Mapping[str, Tensor]) -> Tensor:
        if name in batch:
            return batch[name]
        if name == ATTENTION_MASK:
            return self._mask(next(field.name for field in self.fields.values() if field.ragged), batch)
        if name.endswith(OWN_MASK):
            return self._mask(name.removesuffix(OWN_MASK), batch)
        return batch[self.fields[name.removesuffix(OWN_LENGTHS)].lengths]

    def _mask(self, ragged: str, batch: Mapping[str, Tensor]) -> Tensor:
        return attention_mask(batch[ragged], batch[self.fields[ragged].lengths])

    def _prepared(self, name: str, values: Tensor) -> Tensor:
        field = self.fields.get(name)
        if field is None:
            return values
        if field.kind == "mask":
            return torch.where(values == IGNORED_PIXEL, IGNORED, values.long())
        if field.kind in ("ids", "lengths"):
            return values.long()
        if field.is_target or not field.mean:
            return values if values.is_floating_point() else values.float()
        offset, scale = getattr(self, f"offset_{name}"), getattr(self, f"scale_{name}")
        if field.ragged:  # steps first, then features
            shape = (1, 1, *(1,) * (values.dim() - 3), -1) if values.dim() > 2 else (1, 1)
        else:
            shape = (1, -1, *(1,) * (values.dim() - 2)) if values.dim() > 1 else (-1,)
        standardized = (values.to(scale.dtype) - offset.view(shape)) * scale.view(shape)
        return standardized.to(memory_format=self.memory_format) if field.kind == "image" else standardized


def attention_mask(values: Tensor, lengths: Tensor) -> Tensor:
    """Return 1 for the steps of padded samples (N, L, …) that are within their lengths, int64 (N, L)."""
    steps = torch.arange(values.shape[1], device=values.device)
    return (steps < lengths[:, None]).long()


def _lengths_and_masks(fields: Sequence[FieldRef]) -> list[str]:
    """Return the names of parameters that get lengths and masks: of all ragged fields, and of each by its name."""
    ragged = [field for field in inputs_of(fields) if field.ragged]
    own = [f"{field.name}{ending}" for field in ragged for ending in (OWN_LENGTHS, OWN_MASK)]
    names = [LENGTHS, ATTENTION_MASK] if any(field.ragged for field in fields) else []
    return [*names, *(name for name in own if name not in names)]


def taken_fields(network: nn.Module, fields: Sequence[FieldRef], reference: str = "") -> str | dict[str, str]:
    """Return the fields by the parameters of ``forward`` that get them; a single name if it is given by position.

    The first parameter gets the only input whatever its name, for example ``input_ids`` the field ``tokens``.

    Raises:
        UserError: it needs something that no field offers.
    """
    inputs = [field.name for field in inputs_of(fields) if field.file]
    random = [field.name for field in inputs_of(fields) if not field.file]
    offered = [*inputs, *_lengths_and_masks(fields), *random]
    try:
        parameters = [
            each
            for each in inspect.signature(network.forward).parameters.values()
            if each.kind in (each.POSITIONAL_ONLY, each.POSITIONAL_OR_KEYWORD, each.KEYWORD_ONLY)
        ]
    except (TypeError, ValueError):  # a forward that is compiled has no signature
        return inputs[0]
    required = [each.name for each in parameters if each.default is each.empty]
    unknown = [name for name in required if name not in offered]
    named = {each.name: each.name for each in parameters if each.name in offered}
    by_position = len(inputs) == 1 and not named.keys() & set(inputs)
    if by_position and not named and len(required) <= 1:
        return inputs[0]
    if by_position and named and parameters[0].name not in named and set(unknown) <= {parameters[0].name}:
        return {parameters[0].name: inputs[0], **named}
    if not unknown and named:
        return named
    name = reference or type(network).__name__
    if not parameters:
        raise UserError(f"forward of {name} takes no inputs.", f"The data offers {', '.join(offered)}.")
    raise UserError(
        f"forward of {name} takes {' and '.join(unknown or required)}, and the data has "
        f"{'no such field' if len(unknown) == 1 else 'no such fields'}: its inputs are {', '.join(inputs)}.",
        f"{nearest((unknown or required)[0], offered)} Name the parameters of forward like the fields.",
    )
