"""A data set in memory, between its source and the cache, and functions that cut one into splits."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from torchmill.components import tasks
from torchmill.components.data.content import read_digests
from torchmill.components.data.field_splits import groups_file
from torchmill.components.data.lost_cells import LostCells
from torchmill.components.encoding.columns import Columns
from torchmill.components.encoding.vocabulary import Vocabulary
from torchmill.components.errors import UserError
from torchmill.components.reading.rules import USUAL, ReadingRules
from torchmill.components.refs import DataRef, TargetScale


@dataclass(frozen=True, eq=False)
class Split:
    """The samples of one split."""

    inputs: np.ndarray
    """Images: uint8, NCHW. Token ids: int32, (N, L), padded with 0. Numbers: float32, (N, F, …)."""
    labels: np.ndarray
    """Classes: int64, (N,), from 0. Labels: uint8 of 0 and 1, (N, K). Targets: float32, (N, K)."""
    origins: Sequence[str] = ()
    """Name of each sample, for example its file; empty if samples have only a row."""
    digests: np.ndarray | None = None
    """Digest of each sample's content in the source, uint64 (N,); None if the inputs themselves are to be digested."""

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
    lost_cells: LostCells = field(default_factory=dict)
    """Cells of the test split that the columns can't tell."""
    target_scale: TargetScale = "linear"
    """Scale on which the targets of a regression are learned."""
    source: str = ""
    """Origin of the data; empty if the module's ``SOURCE`` names it."""
    rules: ReadingRules = USUAL
    """Rules for reading files of such data."""
    notes: tuple[str, ...] = ()
    """Guesses and omissions, in words, for a user to check."""

    def target_statistics(self) -> dict[str, Any]:
        """Return the entries of a ``DataRef`` about the training targets; empty tuples if there are none."""
        task, labels, spread = tasks.task(self.task), self.train.labels, ()
        if self.target_scale == "log":
            _, spread = task.statistics(labels)
            labels = np.log(labels)
        mean, std = task.statistics(labels)
        return {"target_mean": mean, "target_std": std, "target_scale": self.target_scale, "target_spread": spread}


def cut(labels: np.ndarray, groups: np.ndarray, fractions: Mapping[str, float], seed: int = 0) -> dict[str, np.ndarray]:
    """Cut samples into parts and the remainder, ``train``, by a hash of each sample's group.

    The hash is keyed with the part's name and the seed. A group below the part's fraction belongs to it, so sizes
    vary: of 1,000 samples, a tenth is 80 to 120. Neither the order of samples nor other samples matter: samples stay
    in their part when data grows. A class without a group in a part gets its lowest one there, so that a new group
    can only replace an old one, which moves towards ``train``. Each class keeps a group for ``train``. Nothing moves
    from ``train`` into a part but such a last group, when others of its class come.

    Args:
        labels: classes as whole numbers (N,); labels of other shapes and types count as one class.
        groups: digest of each sample's group, uint64 (N,). A group stays in one part; its smallest label is its class.
        fractions: share of all samples by part, in order: an earlier part doesn't depend on a later one.

    Returns:
        Sorted indices by part; ``train`` comes first.

    Example:
        >>> cut(labels, row_digests(inputs), {"test": 0.2, "validation": 0.1})["test"]  # doctest: +SKIP
    """
    keys, group_of = np.unique(groups, return_inverse=True)
    class_of_group = np.zeros(len(keys), np.int64)
    if labels.ndim == 1 and np.issubdtype(labels.dtype, np.integer):
        class_of_group = np.full(len(keys), np.iinfo(np.int64).max)
        np.minimum.at(class_of_group, group_of.ravel(), labels.astype(np.int64))
    part_of_group = np.zeros(len(keys), np.int64)
    remaining = 1.0
    for number, (part, fraction) in enumerate(fractions.items(), 1):
        rest = np.flatnonzero(part_of_group == 0)
        hashes = _hashes(keys[rest], part, seed)
        classes, class_of, sizes = np.unique(class_of_group[rest], return_inverse=True, return_counts=True)
        below = np.bincount(class_of.ravel()[hashes < fraction / remaining], minlength=len(classes))
        # As many as the parts to come need, but one of two.
        spare = np.maximum(sizes - 1 - (len(fractions) - number), np.minimum(sizes - 1, 1))
        order = np.lexsort((hashes, class_of.ravel()))
        ranks = np.arange(len(rest)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
        chosen = ranks < np.repeat(np.clip(below, 1, spare), sizes)
        part_of_group[rest[order[chosen]]] = number
        remaining = max(remaining - fraction, 1e-9)
    parts = part_of_group[group_of.ravel()]
    return {part: np.flatnonzero(parts == number) for number, part in enumerate(("train", *fractions))}


def cut_last(samples: int, fractions: Mapping[str, float]) -> dict[str, np.ndarray]:
    """Cut samples in their order: ``train`` comes first, then the parts, each with a sample at least.

    Args:
        fractions: share of all samples by part, the earliest first.

    Returns:
        Rows by part.
    """
    sizes = [max(1, round(fraction * samples)) for fraction in fractions.values()]
    ends = samples - np.cumsum([0, *reversed(sizes)])[::-1]
    starts = [0, *ends[:-1].tolist()]
    names = ("train", *fractions)
    return {
        name: np.arange(max(start, 0), max(end, 0))
        for name, start, end in zip(names, starts, ends.tolist(), strict=True)
    }


def strata(data: DataRef) -> np.ndarray:
    """Return the labels of the training file, by which it is cut; of named fields the first target of classes.

    Without one, all samples are of one class, 0.
    """
    if not data.field_refs:
        return np.load(data.folder / "train_labels.npy")
    classes = [field for field in data.field_refs if field.is_target and field.kind == "ids" and not field.shape]
    if not classes:
        return np.zeros(data.train_size, np.int64)
    return np.load(data.folder / f"train_{classes[0].file}.npy")


def cut_validation(data: DataRef, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Cut the validation split from the training file, as ``data.split`` says.

    Args:
        labels: labels of the training file.

    Returns:
        Sorted indices of the training and of the validation split.

    Raises:
        UserError: all samples are equal or of one group, so none can be cut off.
    """
    if data.is_ordered:
        rows = cut_last(len(labels), {"validation": data.split.fraction})
        return rows["train"], rows["validation"]
    groups = groups_file(data.folder)
    has_groups = bool(data.field_refs) and groups.is_file()
    keys = np.load(groups) if has_groups else read_digests(data, "train")
    rows = cut(labels, keys, {"validation": data.split.fraction}, data.split.seed)
    if not len(rows["validation"]):
        what = "are of one group" if has_groups else "are equal"
        raise UserError(
            f"All {len(labels):,} training samples of {data.name} {what}, so none can be cut off to validate with.",
            f"Give {'more groups' if has_groups else 'different samples'}, or a 'validation' split.",
        )
    return rows["train"], rows["validation"]


def _hashes(groups: np.ndarray, part: str, seed: int) -> np.ndarray:
    """Return the place of each group between 0 and 1."""
    content, key, person = groups.astype("<u8").tobytes(), str(seed).encode(), part.encode()
    hashed = b"".join(
        hashlib.blake2b(content[start : start + 8], digest_size=8, key=key, person=person).digest()
        for start in range(0, len(content), 8)
    )
    return np.frombuffer(hashed, "<u8") / 2.0**64
