"""Read a prepared data set's splits into memory."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from components.refs import DataRef


@dataclass(frozen=True)
class LabelledImages:
    """A split: raw pixels (uint8, NCHW) and labels (int64, N), on one device."""

    pixels: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def to(self, device: torch.device) -> "LabelledImages":
        return LabelledImages(self.pixels.to(device), self.labels.to(device))

    def batches(self, size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """In their order, the last one may be smaller."""
        yield from zip(self.pixels.split(size), self.labels.split(size), strict=True)


def read_training(data: DataRef, validation_fraction: float, seed: int) -> tuple[LabelledImages, LabelledImages]:
    """Give the training and the validation split; the test split is not opened."""
    pixels, labels = _read(data, "train")
    training, validation = stratified_split(labels, validation_fraction, seed)
    return _gather(pixels, labels, training), _gather(pixels, labels, validation)


def read_test(data: DataRef) -> LabelledImages:
    """Give the test split: for evaluation and for the comparison of an export, never for training."""
    pixels, labels = _read(data, "test")
    return LabelledImages(torch.from_numpy(pixels), torch.from_numpy(labels))


def _read(data: DataRef, split: Literal["train", "test"]) -> tuple[np.ndarray, np.ndarray]:
    return np.load(data.folder / f"{split}_images.npy"), np.load(data.folder / f"{split}_labels.npy")


def _gather(pixels: np.ndarray, labels: np.ndarray, indices: np.ndarray) -> LabelledImages:
    return LabelledImages(torch.from_numpy(pixels[indices]), torch.from_numpy(labels[indices]))


def stratified_split(labels: np.ndarray, fraction: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Cut ``fraction`` of every class off for validation; the same seed gives the same split.

    A class gives at least one sample to validation where it has two or more, and keeps at least one.

    Returns:
        Sorted indices of the training and of the validation split.
    """
    rng = np.random.default_rng(seed)
    held_out = []
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        count = min(max(1, round(fraction * len(members))), len(members) - 1)
        held_out.append(rng.permutation(members)[:count])
    validation = np.sort(np.concatenate(held_out))
    return np.setdiff1d(np.arange(len(labels)), validation, assume_unique=True), validation
