"""Cuts of the samples of named fields into splits."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from torchmill.components.data.content import row_digests
from torchmill.components.data.formats.class_folders import SPLIT_NAMES, SPLIT_OF
from torchmill.components.data.formats.user_values import kind_of
from torchmill.components.data.splits import cut, cut_last
from torchmill.components.errors import UserError, nearest

TEST_FRACTION = 0.2
"""Share of the samples to test with if the function gives no test split."""

VALIDATION_FRACTION = 0.1
"""Share of texts to validate with. Runs can't cut it, since the vocabulary must not hold validation texts."""


VALIDATION = "validation"


def rows_of_splits(
    keys: np.ndarray, fractions: Mapping[str, float], place: str, in_order: bool = False
) -> dict[str, np.ndarray]:
    """Return the rows of each split, cut from samples by their keys, uint64 (N,): equal keys stay together.

    Args:
        fractions: share of the samples by split; test comes first.
        in_order: cut the last samples off instead.

    Raises:
        UserError: there are too few samples.
    """
    if in_order:
        rows = cut_last(len(keys), dict(reversed([*fractions.items()])))
    else:
        # Of few groups, one is left for the validation split that each run cuts.
        later = {} if VALIDATION in fractions else {VALIDATION: VALIDATION_FRACTION}
        rows = cut(np.zeros(len(keys), np.int64), keys, {**fractions, **later})
        rest = [rows["train"], *(rows.pop(part) for part in later)]
        rows["train"] = np.sort(np.concatenate(rest))
    if empty := [split for split, chosen in rows.items() if not len(chosen)]:
        distinct = len(np.unique(keys))
        equal = "" if in_order else f": of its {len(keys):,}, {distinct:,} are distinct, and equal ones stay together"
        raise UserError(
            f"{place} gives too few samples to cut any off for {empty[0]}{equal * (distinct < len(keys))}.",
            f"Give more, or a '{empty[0]}' too.",
        )
    return rows


def taken(fields: Mapping[str, Any], rows: np.ndarray) -> dict[str, Any]:
    """Return some samples of each field: arrays, or lists of values."""
    return {
        name: values[rows] if isinstance(values, np.ndarray) else [values[row] for row in rows.tolist()]
        for name, values in fields.items()
    }


def origins_of(rows: Mapping[str, np.ndarray], origins: Mapping[str, Sequence[str]]) -> dict[str, Sequence[str]]:
    """Return the names of the samples of each split, which are rows of train: items of the data without names."""
    names = origins.get("train")
    cut = {split: [names[row] if names else f"item {row}" for row in chosen.tolist()] for split, chosen in rows.items()}
    return {**origins, **cut}


Columns = dict[str, dict[str, Any]]
Origins = Mapping[str, Sequence[str]]


def cut_as_told(
    columns: Columns, options: Mapping[str, Any], groups: np.ndarray | None, origins: Origins, place: str
) -> tuple[Columns, np.ndarray | None, Origins]:
    """Cut training samples into the splits that the data's ``split`` names for each; without it, nothing changes.

    Raises:
        UserError: there isn't a known name for each sample, or none is for training.
    """
    if "split" not in options:
        return columns, groups, origins
    whole = columns["train"]
    samples = len(next(iter(whole.values())))
    if len(columns) > 1:
        raise UserError(f"{place} gives 'split' and a '{[*columns][1]}'.", "Leave one of them out.")
    names = np.asarray(options["split"])
    if names.shape != (samples,):
        raise UserError(
            f"{place}: 'split' is {kind_of(names)} for {samples:,} samples of train.", "Give a name for each sample."
        )
    lower = [str(name).lower() for name in names.tolist()]
    for row, name in enumerate(lower):
        if name not in SPLIT_OF:
            raise UserError(f"{place}: 'split' of sample {row} is '{names[row]}'.", nearest(name, SPLIT_OF))
    rows = {split: np.flatnonzero([SPLIT_OF[name] == split for name in lower]) for split in SPLIT_NAMES}
    if not len(rows["train"]):
        raise UserError(f"{place}: 'split' leaves no sample for train.")
    rows = {split: chosen for split, chosen in rows.items() if len(chosen)}
    cut = {split: taken(whole, chosen) for split, chosen in rows.items()}
    return cut, None if groups is None else groups[rows["train"]], origins_of(rows, origins)


def groups_of(options: Mapping[str, Any], samples: int, place: str) -> np.ndarray | None:
    """Return the digest of each training sample's group, uint64 (N,); None if the data names no groups.

    Raises:
        UserError: there isn't one value for each sample.
    """
    if "groups" not in options:
        return None
    values = np.asarray(options["groups"])
    if values.shape != (samples,):
        raise UserError(
            f"{place}: 'groups' is {kind_of(values)} for {samples:,} samples of train.", "Give one value for each."
        )
    _, number = np.unique(values, return_inverse=True)
    plain = values if values.dtype.kind in "iuU" else number.astype(np.int64)
    return row_digests(plain.reshape(-1, 1))
