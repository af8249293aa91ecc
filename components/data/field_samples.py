"""The splits of a prepared data set as batches of named fields, read from disk or from memory."""

import dataclasses
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import psutil
import torch
from torch import Tensor

from torchmill.components.batches.batch import Batch
from torchmill.components.batches.field_refs import LENGTHS, FieldRef
from torchmill.components.data.named_fields import named_fields
from torchmill.components.data.samples import IN_MEMORY, ON_CARD, read_ahead, sequence_lengths
from torchmill.components.data.splits import cut_validation, strata
from torchmill.components.refs import DataRef

CPU = torch.device("cpu")


@dataclass(frozen=True)
class FieldSamples:
    """A split: stored fields of its samples. Fields that are too large for memory stay on disk until they are taken."""

    fields: Mapping[str, Tensor]
    """Arrays (N, …) by name. Those in ``elsewhere`` may have more rows than the split."""
    size: int
    device: torch.device = CPU
    """Device of the batches."""
    rows: Tensor | None = None
    """Rows of the split in the fields that are elsewhere, on the CPU."""
    elsewhere: frozenset[str] = frozenset()
    """Names of fields on disk, or on the CPU while batches are on a GPU."""
    ragged: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """Fields that are cut to the longest sample of a batch, with the names of their lengths."""
    all_lengths: Mapping[str, Tensor] = dataclasses.field(default_factory=dict)
    """Lengths of the samples by name, on the CPU; empty if no field is ragged."""

    def __len__(self) -> int:
        return self.size

    @property
    def lengths(self) -> Tensor | None:
        """Lengths of the samples, of the first ragged field, on the CPU; None if no field is ragged."""
        return next(iter(self.all_lengths.values()), None)

    def to(self, device: torch.device) -> "FieldSamples":
        """Return the samples with batches on a device; fields that are too large for it stay on the CPU."""
        fields, elsewhere = {}, set(self.elsewhere)
        for name, values in self.fields.items():
            if device.type == "cuda" and values.nbytes > ON_CARD * torch.cuda.mem_get_info(device)[0]:
                elsewhere.add(name)
            fields[name] = values if name in elsewhere else values.to(device)
        rows = self.rows if self.rows is not None or not elsewhere else torch.arange(self.size)
        return replace(self, fields=fields, device=device, rows=rows, elsewhere=frozenset(elsewhere))

    def take(self, indices: Tensor) -> Batch:
        """Return the fields of some samples; ragged ones are cut to the longest.

        Args:
            indices: on the CPU.
        """
        chosen = indices.to(self.device)
        lengths = {name: values[indices] for name, values in self.all_lengths.items()}
        taken = {}
        for name, values in self.fields.items():
            if name in self.elsewhere:
                assert self.rows is not None
                part = values[self.rows[indices]]
                part = part.pin_memory() if self.device.type == "cuda" else part
                taken[name] = part.to(self.device, non_blocking=self.device.type == "cuda")
            else:
                taken[name] = values[chosen]
            if name in self.ragged:
                taken[name] = taken[name][:, : int(lengths[self.ragged[name]].max())]
        taken |= {name: values.to(self.device) for name, values in lengths.items()}
        return Batch.of(taken)

    def ahead(self, batches: Iterable[Tensor]) -> Iterator[Batch]:
        """Yield ``take`` of each batch, and read fields that are elsewhere one batch ahead."""
        if not self.elsewhere:
            yield from map(self.take, batches)
            return
        yield from read_ahead(self.take, batches)

    def part(self, indices: Tensor) -> "FieldSamples":
        """Return some samples as a split; the indices are on the CPU."""
        fields = {
            name: values if name in self.elsewhere else values[indices.to(values.device)]
            for name, values in self.fields.items()
        }
        rows = None if self.rows is None else self.rows[indices]
        lengths = {name: values[indices] for name, values in self.all_lengths.items()}
        return replace(self, fields=fields, size=len(indices), rows=rows, all_lengths=lengths)

    def first(self, count: int) -> "FieldSamples":
        """Return the first samples as a split."""
        return self.part(torch.arange(min(count, self.size)))

    def batches(self, size: int) -> Iterator[Batch]:
        """Yield the samples in order, in batches of one size; the last may be smaller."""
        return map(self.take, torch.arange(self.size).split(size))

    def parts(self, count: int) -> Iterator[Batch]:
        """Yield the samples in order, in ``count`` parts whose sizes differ by one at most."""
        return map(self.take, torch.arange(self.size).tensor_split(count))


Split = Literal["train", "validation", "test"]


def read_fields(data: DataRef, split: Split) -> FieldSamples:
    """Return a split of a data set. The validation split is cut from the training file if the data has none."""
    if split == "test" or data.validation_size:
        return _samples(data, split, None)
    training, validation = cut_validation(data, strata(data))
    return _samples(data, "train", training if split == "train" else validation)


def read_field_sample(data: DataRef, count: int, seed: int) -> FieldSamples:
    """Return some samples of the training file."""
    rng = np.random.default_rng(seed)
    return _samples(data, "train", np.sort(rng.permutation(data.train_size)[:count]))


def _samples(data: DataRef, split: Split, rows: np.ndarray | None) -> FieldSamples:
    fields = named_fields(data)
    arrays, elsewhere = {}, set()
    for field in fields:
        arrays[field.name] = _read(data, split, field, in_memory=field.kind == "lengths")
        if isinstance(arrays[field.name], np.memmap):
            elsewhere.add(field.name)
        elif rows is not None:
            arrays[field.name] = arrays[field.name][rows]
    first = arrays[fields[0].name]
    size = len(rows) if rows is not None else len(first)
    ragged = {field.name: field.lengths for field in fields if field.ragged}
    lengths = {field.name: arrays.pop(field.name) for field in fields if field.kind == "lengths"}
    if ragged and not lengths:  # tokens of a data set of labels, padded with 0
        tokens = arrays[next(iter(ragged))]
        chosen = np.arange(size) if rows is None else rows
        blocks = [chosen[start : start + 65_536] for start in range(0, size, 65_536)]
        in_place = rows is not None and not isinstance(tokens, np.memmap)
        lengths[LENGTHS] = (
            sequence_lengths(np.asarray(tokens))
            if in_place
            else np.concatenate([sequence_lengths(np.asarray(tokens[block])) for block in blocks])
        )
    return FieldSamples(
        fields={name: torch.from_numpy(values) for name, values in arrays.items()},
        size=size,
        rows=torch.from_numpy(np.arange(size) if rows is None else rows) if elsewhere else None,
        elsewhere=frozenset(elsewhere),
        ragged=ragged,
        all_lengths={name: torch.from_numpy(np.ascontiguousarray(values)).long() for name, values in lengths.items()},
    )


def _read(data: DataRef, split: Split, field: FieldRef, in_memory: bool) -> np.ndarray:
    path = data.folder / f"{split}_{field.file}.npy"
    if field.renumbered:
        return _renumbered(np.load(path), field)
    large = not in_memory and path.stat().st_size > IN_MEMORY * psutil.virtual_memory().available
    return np.load(path, mmap_mode="c" if large else None)


def _renumbered(values: np.ndarray, field: FieldRef) -> np.ndarray:
    """Return ids or classes by the numbers of training; ignored ones stay."""
    table = np.array(field.renumbered)
    ignored = (values < 0) | (values >= len(table))
    return np.where(ignored, values, table[np.where(ignored, 0, values)]).astype(values.dtype)
