"""A data set in memory, between its source and the cache, and functions that cut one into splits."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from torchmill.components import tasks
from torchmill.components.encoding.columns import Columns
from torchmill.components.encoding.vocabulary import Vocabulary
from torchmill.components.reading.rules import USUAL, ReadingRules


@dataclass(frozen=True, eq=False)
class Split:
    """The samples of one split."""

    inputs: np.ndarray
    """Images: uint8, NCHW. Token ids: int32, (N, L), padded with 0. Numbers: float32, (N, F, …)."""
    labels: np.ndarray
    """Classes: int64, (N,), from 0. Labels: uint8 of 0 and 1, (N, K). Targets: float32, (N, K)."""
    origins: Sequence[str] = ()
    """Name of each sample, for example its file; empty if samples have only a row."""

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True, eq=False)
class Splits:
    """The result of a data set's ``load``."""

    train: Split
    test: Split
    validation: Split | None = None
    """Validation split; without one, each run cuts it from train."""
    classes: tuple[str, ...] = ()
    """Names of classes, labels or targets; empty if the module's ``CLASSES`` names them."""
    task: str = tasks.DEFAULT
    vocabulary: Vocabulary | None = None
    """Vocabulary of token ids."""
    columns: Columns | None = None
    """Columns of the table that the inputs came from, if they have names."""
    source: str = ""
    """Origin of the data; empty if the module's ``SOURCE`` names it."""
    rules: ReadingRules = USUAL
    """Rules for reading files of such data."""
    notes: tuple[str, ...] = ()
    """Guesses and omissions, in words, for a user to check."""


def cut(
    labels: np.ndarray, fractions: Sequence[float], seed: int = 0, groups: Sequence[object] | None = None
) -> list[np.ndarray]:
    """Cut samples into the remainder and one part per fraction.

    Each class gives its share to each part, and keeps at least one sample for the remainder. The same seed gives the
    same parts on every machine.

    Args:
        labels: classes as whole numbers (N,); labels of other shapes and types count as one class.
        groups: group of each sample; a group stays in one part, for example equal texts.

    Returns:
        Sorted indices of the remainder and of each part.
    """
    # RandomState rather than default_rng: numpy promises never to change its numbers (NEP 19).
    rng = np.random.RandomState(seed)
    numbers = np.arange(len(labels)) if groups is None else np.unique(np.asarray(groups), return_inverse=True)[1]
    _, first, group_of = np.unique(numbers, return_index=True, return_inverse=True)
    has_classes = labels.ndim == 1 and np.issubdtype(labels.dtype, np.integer)
    class_of_group = labels[first] if has_classes else np.zeros(len(first), np.int64)
    part_of_group = np.zeros(len(first), np.int64)
    for label in np.unique(class_of_group):
        members = rng.permutation(np.flatnonzero(class_of_group == label))
        available = len(members) - 1
        start = 0
        for part, fraction in enumerate(fractions, 1):
            count = min(max(1, round(fraction * len(members))), available)
            part_of_group[members[start : start + count]] = part
            start, available = start + count, available - count
    parts = part_of_group[group_of.ravel()]
    return [np.flatnonzero(parts == part) for part in range(len(fractions) + 1)]


def stratified_split(labels: np.ndarray, fraction: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Cut a fraction of each class off for validation, or of all samples if there are no classes.

    A class with two samples or more has at least one in each split. The same seed gives the same split.

    Returns:
        Sorted indices of the training and of the validation split.
    """
    rng = np.random.default_rng(seed)
    classes = labels if labels.ndim == 1 and np.issubdtype(labels.dtype, np.integer) else np.zeros(len(labels), int)
    held_out = []
    for label in np.unique(classes):
        members = np.flatnonzero(classes == label)
        count = min(max(1, round(fraction * len(members))), len(members) - 1)
        held_out.append(rng.permutation(members)[:count])
    validation = np.sort(np.concatenate(held_out))
    return np.setdiff1d(np.arange(len(labels)), validation, assume_unique=True), validation
