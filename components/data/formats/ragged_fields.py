"""Fields whose samples have different lengths: padded arrays, and the lengths, which several fields may share."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from torchmill.components.batches.field_refs import LENGTHS, OWN_LENGTHS, FieldRef
from torchmill.components.data.content import digests_of, row_digests
from torchmill.components.errors import UserError, shortened

Arrays = dict[str, np.ndarray]
"""Arrays by split, or by name of a field."""

LIKELY_EQUAL = 0.5
"""Share of equal lengths above which a target and an input are meant to have the same lengths."""


def is_ragged(values: Any) -> bool:
    """Return True for a list of samples of different lengths."""
    return isinstance(values, list) and len({len(value) for value in values if np.ndim(value)}) > 1


def padded(opened: Mapping[str, Any], padding: int, place: str) -> tuple[Arrays, Arrays]:
    """Return samples of all splits as arrays of one length, and their lengths.

    Args:
        opened: lists of arrays, or arrays, by split.

    Raises:
        UserError: samples differ beside their lengths.
    """
    longest = max(len(value) for values in opened.values() for value in values)
    arrays, lengths = {}, {}
    for split, values in opened.items():
        lengths[split] = np.array([len(value) for value in values], np.int64)
        sides = {value.shape[1:] for value in values}
        if len(sides) > 1:
            raise UserError(f"{place} of {split}: samples have the shapes {shortened(sorted(sides))}.")
        first = values[0]
        arrays[split] = np.full((len(values), longest, *first.shape[1:]), padding, first.dtype)
        for row, value in enumerate(values):
            arrays[split][row, : len(value)] = value
    return arrays, lengths


class LengthsByName:
    """Lengths of ragged fields, by the name of the field that holds them; fields of the same lengths share one."""

    def __init__(self) -> None:
        self.lengths: dict[str, Arrays] = {}
        self._has_input: dict[str, bool] = {}

    def name_of(self, field: str, lengths: Arrays, is_target: bool, place: str) -> str:
        """Return the name of the field that holds the lengths of a ragged field.

        Raises:
            UserError: a target and an input have nearly the same lengths.
        """
        for name, others in self.lengths.items():
            same = np.concatenate([lengths[split] == others[split] for split in lengths])
            if same.all():
                self._has_input[name] |= not is_target
                return name
            if same.mean() > LIKELY_EQUAL and self._has_input[name] == is_target:
                split = next(split for split in lengths if (lengths[split] != others[split]).any())
                row = int(np.flatnonzero(lengths[split] != others[split])[0])
                raise UserError(
                    f"{place} of {split}: sample {row} has the length {lengths[split][row]}, and {others[split][row]} "
                    "in an earlier field.",
                    "A target needs a value for each step of its input.",
                )
        name = f"{field}{OWN_LENGTHS}" if self.lengths else LENGTHS
        self.lengths[name] = lengths
        self._has_input[name] = not is_target
        return name


def without_padding(ref: FieldRef, arrays: Mapping[str, np.ndarray]) -> np.ndarray:
    """Return a field, or the digest of each sample of a ragged one: its padding depends on the longest sample."""
    if not ref.ragged:
        return arrays[ref.name]
    lengths = arrays[ref.lengths].tolist()
    return digests_of(row[:length].tobytes() for row, length in zip(arrays[ref.name], lengths, strict=True))


def digests_of_rows(fields: Sequence[np.ndarray]) -> np.ndarray:
    """Return the digest of each sample's inputs, uint64 (N,)."""
    digests = [row_digests(values if values.ndim > 1 else values.reshape(-1, 1)) for values in fields]
    return digests[0] if len(digests) == 1 else row_digests(np.stack(digests, 1))
