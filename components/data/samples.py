"""The splits of a prepared data set as tensors, read from disk or from memory."""

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Literal, TypeVar

import numpy as np
import psutil
import torch
from torch import Tensor

from torchmill.components.data.splits import cut_validation, strata
from torchmill.components.encoding.vocabulary import PADDING
from torchmill.components.refs import DataRef

T = TypeVar("T")

IN_MEMORY = 0.25
"""Share of the free memory up to which an array is read; larger ones are mapped from disk."""

ON_CARD = 0.5
"""Share of a GPU's free memory up to which an array is copied to it; larger ones are sent batch by batch."""


@dataclass(frozen=True)
class Samples:
    """A split: raw inputs and labels on one device. Inputs that are too large stay elsewhere until they are taken."""

    inputs: Tensor
    """Pixels, uint8 (N, C, H, W); token ids, int32 (N, L); or numbers, float32 (N, F, …)."""
    labels: Tensor
    """Classes, int64 (N,); or labels or targets, float32 (N, K)."""
    lengths: Tensor | None = None
    """Lengths of the sequences, on the CPU."""
    rows: Tensor | None = None
    """Rows of the split in ``inputs``, if those are not with the labels but on disk or on the CPU."""

    def __len__(self) -> int:
        return len(self.labels)

    def to(self, device: torch.device) -> "Samples":
        """Return the samples on a device; inputs that are too large for it stay on the CPU."""
        labels = self.labels.to(device)
        if self.rows is not None:
            return Samples(self.inputs, labels, self.lengths, self.rows)
        if device.type == "cuda" and self.inputs.nbytes > ON_CARD * torch.cuda.mem_get_info(device)[0]:
            return Samples(self.inputs, labels, self.lengths, torch.arange(len(self)))
        return Samples(self.inputs.to(device), labels, self.lengths)

    def take(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """Return inputs and labels of some samples on the labels' device; sequences are cut to the longest.

        Args:
            indices: on the CPU.
        """
        device = self.labels.device
        chosen = indices.to(device)
        if self.rows is None:
            inputs = self.inputs[chosen]
        else:
            inputs = self.inputs[self.rows[indices]]
            if device.type == "cuda":
                inputs = inputs.pin_memory()  # the copy runs while the GPU computes
            inputs = inputs.to(device, non_blocking=device.type == "cuda")
        if self.lengths is not None:
            inputs = inputs[:, : int(self.lengths[indices].max())]
        return inputs, self.labels[chosen]

    def ahead(self, batches: Iterable[Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield ``take`` of each batch, and read inputs that are elsewhere one batch ahead."""
        if self.rows is None:
            yield from map(self.take, batches)
            return
        yield from read_ahead(self.take, batches)

    def part(self, indices: Tensor) -> "Samples":
        """Return some samples as a split; the indices are on the CPU."""
        lengths = None if self.lengths is None else self.lengths[indices]
        labels = self.labels[indices.to(self.labels.device)]
        if self.rows is not None:
            return Samples(self.inputs, labels, lengths, self.rows[indices])
        return Samples(self.inputs[indices.to(self.inputs.device)], labels, lengths)

    def first(self, count: int) -> "Samples":
        """Return the first samples as a split."""
        inputs, labels = self.take(torch.arange(min(count, len(self))))
        return Samples(inputs, labels, None if self.lengths is None else self.lengths[:count])

    def batches(self, size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield inputs and labels in order, in batches of one size; the last may be smaller."""
        return self._in_order(lambda values: values.split(size))

    def parts(self, count: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield inputs and labels in order, in ``count`` parts whose sizes differ by one at most."""
        return self._in_order(lambda values: values.tensor_split(count))

    def _in_order(self, split: Callable[[Tensor], Iterable[Tensor]]) -> Iterator[tuple[Tensor, Tensor]]:
        if self.rows is None and self.lengths is None:
            return zip(split(self.inputs), split(self.labels), strict=True)
        return map(self.take, split(torch.arange(len(self))))


def read_ahead(take: Callable[[Tensor], T], batches: Iterable[Tensor]) -> Iterator[T]:
    """Yield ``take`` of each batch, read one batch ahead in a thread."""
    with ThreadPoolExecutor(1, "batches") as reader:
        upcoming: Future[T] | None = None
        for batch in batches:
            ready, upcoming = upcoming, reader.submit(take, batch)
            if ready:
                yield ready.result()
        if upcoming:
            yield upcoming.result()


def read_training(data: DataRef) -> tuple[Samples, Samples]:
    """Return the training and the validation split, with standardised targets. The test split is not opened.

    Validation samples are the data set's own split, or cut from the training file as ``data.split`` says.
    """
    inputs, labels = _read(data, "train")
    if data.validation_size:
        return _samples(data, inputs, labels), _samples(data, *_read(data, "validation"))
    training, validation = cut_validation(data, labels)
    return _samples(data, inputs, labels, training), _samples(data, inputs, labels, validation)


def read_validation(data: DataRef) -> Samples:
    """Return the validation split of ``read_training``."""
    if data.validation_size:
        return _samples(data, *_read(data, "validation"))
    inputs, labels = _read(data, "train")
    return _samples(data, inputs, labels, cut_validation(data, labels)[1])


def training_sizes(data: DataRef) -> tuple[int, int]:
    """Return the numbers of samples that a run trains and validates with."""
    if data.validation_size:
        return data.train_size, data.validation_size
    training, validation = cut_validation(data, strata(data))
    return len(training), len(validation)


def read_sample(data: DataRef, count: int, seed: int) -> Samples:
    """Return some samples of the training file, with standardised targets."""
    inputs, labels = _read(data, "train")
    rng = np.random.default_rng(seed)
    indices = np.sort(rng.permutation(len(labels))[:count])
    return _samples(data, np.asarray(inputs[indices]), labels[indices])


def read_test(data: DataRef) -> Samples:
    """Return the test split, with targets in their own units. Only evaluation and the parity check may use it."""
    return _samples(data, *_read(data, "test"), standardize=False)


def _read(data: DataRef, split: Literal["train", "validation", "test"]) -> tuple[np.ndarray, np.ndarray]:
    path = data.folder / f"{split}_inputs.npy"
    large = path.stat().st_size > IN_MEMORY * psutil.virtual_memory().available
    # Copy on write, though nobody writes: torch warns about read-only memory.
    return np.load(path, mmap_mode="c" if large else None), np.load(data.folder / f"{split}_labels.npy")


def _samples(
    data: DataRef, inputs: np.ndarray, labels: np.ndarray, indices: np.ndarray | None = None, standardize: bool = True
) -> Samples:
    if indices is not None:
        labels = labels[indices]
    if standardize and data.target_scale == "log":
        labels = np.log(labels)
    labels = data.task_object.trained_on(labels, (data.target_mean, data.target_std) if standardize else None)
    rows = None
    if isinstance(inputs, np.memmap):
        rows = torch.from_numpy(np.arange(len(labels)) if indices is None else indices)
    elif indices is not None:
        inputs = inputs[indices]
    lengths = None
    if data.field.is_sequence:
        # In parts: an array that is mapped from disk doesn't fit into memory.
        parts = [inputs] if rows is None else (inputs[part.numpy()] for part in rows.split(65_536))
        lengths = torch.from_numpy(np.concatenate([sequence_lengths(part) for part in parts]))
    return Samples(torch.from_numpy(inputs), torch.from_numpy(labels), lengths, rows)


def sequence_lengths(tokens: np.ndarray) -> np.ndarray:
    """Return the lengths of sequences with padding at the end; int64 (N,), at least 1."""
    if not tokens.shape[1]:
        return np.ones(len(tokens), np.int64)
    is_token = tokens[:, ::-1] != PADDING
    return np.where(is_token.any(1), tokens.shape[1] - is_token.argmax(1), 1)
