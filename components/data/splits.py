"""A data set in memory, on its way from its source into the cache; and how one is cut into splits."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from torchmill.components.data.encoding.columns import Columns
from torchmill.components.data.encoding.vocabulary import Vocabulary
from torchmill.components.refs import Task


@dataclass(frozen=True, eq=False)
class Split:
    inputs: np.ndarray
    """Images: uint8, NCHW. Token ids: int32, (N, L), padded with 0. Numbers: float32, (N, F, …)."""
    labels: np.ndarray
    """Classes: int64, (N,), from 0. Labels: uint8 of 0 and 1, (N, K). Targets: float32, (N, K)."""
    origins: Sequence[str] = ()
    """What people know each sample by, as its file; none where that is its row alone."""

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True, eq=False)
class Splits:
    """What the ``load`` of a data set returns."""

    train: Split
    test: Split
    validation: Split | None = None
    """Cut from train by each run where there is none."""
    classes: tuple[str, ...] = ()
    """Names of classes, labels or targets; the module's ``CLASSES`` where they are always the same."""
    task: Task = "classification"
    vocabulary: Vocabulary | None = None
    """Of token ids."""
    columns: Columns | None = None
    """What the numbers, or the texts, were read from, where that has names."""
    source: str = ""
    """Where it comes from; the module's ``SOURCE`` where that is always the same."""


def cut(
    labels: np.ndarray, fractions: Sequence[float], seed: int = 0, groups: Sequence[object] | None = None
) -> list[np.ndarray]:
    """Cut samples into parts: one for each fraction, and first of all what they leave.

    Each class gives its share to each part (labels of one dimension that are whole numbers), and keeps at least one
    sample. What is of one group stays together. The same seed gives the same cut, on every machine.

    Args:
        groups: of each sample; equal texts, say, which must not be met again in another part.

    Returns:
        Sorted indices of each part.
    """
    # RandomState and not default_rng: numpy promises never to change its numbers (NEP 19).
    rng = np.random.RandomState(seed)
    numbers = np.arange(len(labels)) if groups is None else np.unique(np.asarray(groups), return_inverse=True)[1]
    _, first, group_of = np.unique(numbers, return_index=True, return_inverse=True)
    classed = labels.ndim == 1 and np.issubdtype(labels.dtype, np.integer)
    class_of_group = labels[first] if classed else np.zeros(len(first), np.int64)
    part_of_group = np.zeros(len(first), np.int64)
    for label in np.unique(class_of_group):
        members = rng.permutation(np.flatnonzero(class_of_group == label))
        left = len(members) - 1
        at = 0
        for part, fraction in enumerate(fractions, 1):
            count = min(max(1, round(fraction * len(members))), left)
            part_of_group[members[at : at + count]] = part
            at, left = at + count, left - count
    parts = part_of_group[group_of.ravel()]
    return [np.flatnonzero(parts == part) for part in range(len(fractions) + 1)]


def stratified_split(labels: np.ndarray, fraction: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Cut ``fraction`` of every class off for validation, or of all samples where there are no classes.

    The same seed gives the same split. A class gives at least one sample to validation where it has two or more,
    and keeps at least one.

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
