"""Read a prepared data set's splits."""

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Literal

import numpy as np
import psutil
import torch
from torch import Tensor

from torchmill.components.data.splits import stratified_split
from torchmill.components.refs import PADDING, DataRef

IN_MEMORY = 0.25  # of the memory that is free: larger arrays stay on disk, mapped into memory
ON_CARD = 0.5  # of a card's memory that is free: larger arrays stay with the processor, whence batches are sent


@dataclass(frozen=True)
class Samples:
    """A split: raw inputs and labels, on one device. What is too large for it is read, or sent, where it is taken."""

    inputs: Tensor
    """uint8 pixels (N, C, H, W), int32 token ids (N, L), float32 numbers (N, F, …)."""
    labels: Tensor
    """int64 classes (N,), float32 labels or targets (N, K)."""
    lengths: Tensor | None = None
    """Of the sequences, on the processor."""
    rows: Tensor | None = None
    """Which of the inputs are meant, where they are elsewhere than the labels: on disk, or with the processor."""

    def __len__(self) -> int:
        return len(self.labels)

    def to(self, device: torch.device) -> "Samples":
        labels = self.labels.to(device)
        if self.rows is not None:
            return Samples(self.inputs, labels, self.lengths, self.rows)
        if device.type == "cuda" and self.inputs.nbytes > ON_CARD * torch.cuda.mem_get_info(device)[0]:
            return Samples(self.inputs, labels, self.lengths, torch.arange(len(self)))
        return Samples(self.inputs.to(device), labels, self.lengths)

    def take(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """Give some samples on the device of the labels, sequences as long as the longest of them.

        Args:
            indices: on the processor.
        """
        device = self.labels.device
        chosen = indices.to(device)
        if self.rows is None:
            inputs = self.inputs[chosen]
        else:
            inputs = self.inputs[self.rows[indices]]
            if device.type == "cuda":
                inputs = inputs.pin_memory()  # from which it is sent while the card computes
            inputs = inputs.to(device, non_blocking=device.type == "cuda")
        if self.lengths is not None:
            inputs = inputs[:, : int(self.lengths[indices].max())]
        return inputs, self.labels[chosen]

    def ahead(self, batches: Iterable[Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
        """As ``take`` for each of the batches; what is elsewhere is read while the one before it is computed with."""
        if self.rows is None:
            yield from map(self.take, batches)
            return
        with ThreadPoolExecutor(1, "batches") as reader:
            coming: Future[tuple[Tensor, Tensor]] | None = None
            for batch in batches:
                ready, coming = coming, reader.submit(self.take, batch)
                if ready:
                    yield ready.result()
            if coming:
                yield coming.result()

    def part(self, indices: Tensor) -> "Samples":
        """Give some samples as a split of their own; indices are on the processor."""
        lengths = None if self.lengths is None else self.lengths[indices]
        labels = self.labels[indices.to(self.labels.device)]
        if self.rows is not None:
            return Samples(self.inputs, labels, lengths, self.rows[indices])
        return Samples(self.inputs[indices.to(self.inputs.device)], labels, lengths)

    def first(self, count: int) -> "Samples":
        """Give the first samples alone."""
        inputs, labels = self.take(torch.arange(min(count, len(self))))
        return Samples(inputs, labels, None if self.lengths is None else self.lengths[:count])

    def batches(self, size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """In their order, the last one may be smaller."""
        return self._in_order(lambda values: values.split(size))

    def parts(self, count: int) -> Iterator[tuple[Tensor, Tensor]]:
        """In their order, in so many parts, which differ by one sample at most."""
        return self._in_order(lambda values: values.tensor_split(count))

    def _in_order(self, split: Callable[[Tensor], Iterable[Tensor]]) -> Iterator[tuple[Tensor, Tensor]]:
        if self.rows is None and self.lengths is None:
            return zip(split(self.inputs), split(self.labels), strict=True)
        return map(self.take, split(torch.arange(len(self))))


def read_training(data: DataRef) -> tuple[Samples, Samples]:
    """Give the training and the validation split; the test split is not opened.

    The data set's own validation split, or a part of the training file. Targets of a regression are standardised.
    """
    inputs, labels = _read(data, "train")
    if data.validation_size:
        return _samples(data, inputs, labels), _samples(data, *_read(data, "validation"))
    training, validation = stratified_split(labels, data.split.fraction, data.split.seed)
    return _samples(data, inputs, labels, training), _samples(data, inputs, labels, validation)


def read_validation(data: DataRef) -> Samples:
    """Give the validation split alone, the same as ``read_training`` does."""
    if data.validation_size:
        return _samples(data, *_read(data, "validation"))
    inputs, labels = _read(data, "train")
    return _samples(data, inputs, labels, stratified_split(labels, data.split.fraction, data.split.seed)[1])


def training_sizes(data: DataRef) -> tuple[int, int]:
    """Samples of the training and of the validation split."""
    if data.validation_size:
        return data.train_size, data.validation_size
    labels = np.load(data.folder / "train_labels.npy")
    training, validation = stratified_split(labels, data.split.fraction, data.split.seed)
    return len(training), len(validation)


def read_sample(data: DataRef, count: int, seed: int) -> Samples:
    """Give some samples of the training file, targets standardised."""
    inputs, labels = _read(data, "train")
    rng = np.random.default_rng(seed)
    indices = np.sort(rng.permutation(len(labels))[:count])
    return _samples(data, np.asarray(inputs[indices]), labels[indices])


def read_test(data: DataRef) -> Samples:
    """Give the test split, targets in their own units: for evaluation and for the comparison of an export alone."""
    return _samples(data, *_read(data, "test"), standardize=False)


def _read(data: DataRef, split: Literal["train", "validation", "test"]) -> tuple[np.ndarray, np.ndarray]:
    path = data.folder / f"{split}_inputs.npy"
    large = path.stat().st_size > IN_MEMORY * psutil.virtual_memory().available
    # Copy on write, though nobody writes: torch complains of memory that is read-only.
    return np.load(path, mmap_mode="c" if large else None), np.load(data.folder / f"{split}_labels.npy")


def _samples(
    data: DataRef, inputs: np.ndarray, labels: np.ndarray, indices: np.ndarray | None = None, standardize: bool = True
) -> Samples:
    if indices is not None:
        labels = labels[indices]
    if data.task != "classification":
        labels = labels.astype(np.float32)
    if data.task == "regression" and standardize:
        spread = np.array([value or 1.0 for value in data.target_std])
        labels = ((labels - np.array(data.target_mean)) / spread).astype(np.float32)
    rows = None
    if isinstance(inputs, np.memmap):
        rows = torch.from_numpy(np.arange(len(labels)) if indices is None else indices)
    elif indices is not None:
        inputs = inputs[indices]
    lengths = None
    if data.kind == "tokens":
        # What is mapped from disk is read in parts: all of it at once is what the memory does not take.
        parts = [inputs] if rows is None else (inputs[part.numpy()] for part in rows.split(65_536))
        lengths = torch.from_numpy(np.concatenate([sequence_lengths(part) for part in parts]))
    return Samples(torch.from_numpy(inputs), torch.from_numpy(labels), lengths, rows)


def sequence_lengths(tokens: np.ndarray) -> np.ndarray:
    """Lengths of sequences that are filled up at their end; int64, at least 1."""
    if not tokens.shape[1]:
        return np.ones(len(tokens), np.int64)
    filled = tokens[:, ::-1] != PADDING
    return np.where(filled.any(1), tokens.shape[1] - filled.argmax(1), 1)
