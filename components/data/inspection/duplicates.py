"""Duplicates: samples in several splits, or twice with different labels."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from torchmill.components.data.content import row_digests
from torchmill.components.data.inspection import near_copies, nearest_neighbours
from torchmill.components.data.inspection.findings import MOST_LISTED, Leak, Suspect
from torchmill.components.data.origins import read_origins
from torchmill.components.encoding.vocabulary import PADDING, SPECIAL, UNKNOWN, Vocabulary
from torchmill.components.refs import DataRef


@dataclass(frozen=True, eq=False)
class SplitPart:
    """A split, as some rows of a file."""

    file: str
    inputs: np.ndarray
    """All inputs of the file, mapped into memory."""
    labels: np.ndarray
    rows: np.ndarray

    def __len__(self) -> int:
        return len(self.rows)


def find_copies(data: DataRef, splits: dict[str, SplitPart], vocabulary: Vocabulary | None) -> dict[str, Any]:
    """Return the fields of ``Findings`` about copies, leaks, contradictions and suspect labels."""
    by_file = {part.file: part for part in splits.values()}
    equal = {file: row_digests(part.inputs) for file, part in by_file.items()}
    keys = {split: equal[part.file][part.rows] for split, part in splits.items()}
    alike = keys
    if vocabulary:  # texts that differ in case or punctuation alone
        folded = {file: _text_keys(part.inputs, vocabulary) for file, part in by_file.items()}
        alike = {split: folded[part.file][part.rows] for split, part in splits.items()}
        keys = {split: np.where(alike[split] != 0, key, _unique_keys(key, split)) for split, key in keys.items()}
    across = (("train", "validation"), ("train", "test"), ("validation", "test"))
    leaks = _equal_leaks(splits, keys)
    near, compared, power = {}, len(splits["test"]), 1.0
    points = None
    if vocabulary:
        for number, (split, row, _) in _equal_leaks(splits, alike).items():
            if number not in leaks and alike["test"][number]:
                near[number] = (split, row, 0.99)
    elif data.field.is_picture:
        near, compared, power, points = _near_images(splits, leaks)
    elif not data.field.is_sequence and data.task_object.is_exclusive:
        points = _standardised(data, splits["train"].inputs)
    leaked = sorted({**near, **leaks}.items())
    share = len(leaks) / max(1, len(splits["test"])) + len(near) / max(1, compared)
    suspects, labels_compared = [], 1.0
    if points is not None and data.task_object.is_exclusive:
        suspects, labels_compared = nearest_neighbours.suspect_labels(points, splits["train"].labels)
    return {
        "copies_within": {split: len(key) - len(np.unique(key)) for split, key in keys.items()},
        "equal_across": {f"{a}-{b}": int(np.isin(keys[b], keys[a]).sum()) for a, b in across},
        "near_across": {
            f"{split}-test": sum(source == split for source, _, _ in near.values()) for split in ("train", "validation")
        },
        "leakage": min(1.0, share),
        "leaks": tuple(Leak(int(splits["test"].rows[number]), *match) for number, match in leaked[:MOST_LISTED]),
        "compared": compared,
        "power": power,
        **_contradictions(data, splits, alike),
        "suspects": tuple(
            Suspect(row, data.classes[int(splits["train"].labels[row])], data.classes[label], share)
            for row, label, share in suspects[:MOST_LISTED]
        ),
        "suspect_count": len(suspects),
        "labels_compared": labels_compared,
    }


def with_origins(folder: Path, splits: dict[str, SplitPart], copies: dict[str, Any]) -> dict[str, Any]:
    """Add the origins of the samples that ``find_copies`` lists."""
    leaks, suspects, groups = copies["leaks"], copies["suspects"], copies["contradicting"]
    listed: dict[str, set[int]] = {part.file: set() for part in splits.values()}
    for leak in leaks:
        listed["test"].add(leak.row)
        listed[splits[leak.split].file].add(leak.other_row)
    listed["train"] |= {suspect.row for suspect in suspects} | {row for group in groups for row in group}
    origins = {file: read_origins(folder, file, rows) for file, rows in listed.items()}
    train = origins["train"]
    return {
        **copies,
        "leaks": tuple(
            leak._replace(
                origin=origins["test"].get(leak.row, ""),
                other_origin=origins[splits[leak.split].file].get(leak.other_row, ""),
            )
            for leak in leaks
        ),
        "suspects": tuple(suspect._replace(origin=train.get(suspect.row, "")) for suspect in suspects),
        "contradicting_origins": tuple(tuple(train[row] for row in group) for group in groups) if train else (),
    }


def _unique_keys(keys: np.ndarray, split: str) -> np.ndarray:
    """Return keys that no other sample has."""
    start = {"train": 1, "validation": 2, "test": 3}[split] << 40
    return np.arange(start, start + len(keys), dtype=np.uint64)


def _text_keys(tokens: np.ndarray, vocabulary: Vocabulary) -> np.ndarray:
    """Return a key for each text that ignores case and, for words, punctuation; 0 if too many tokens are unknown.

    Unknown words share one token, though they may be different words.
    """
    numbers: dict[str, int] = {}
    table = np.zeros(len(vocabulary.tokens), np.uint64)
    rng = np.random.RandomState(0)
    for number, token in enumerate(vocabulary.tokens):
        if number != PADDING and (vocabulary.level == "characters" or number < len(SPECIAL) or token.isalnum()):
            table[number] = numbers.setdefault(token.casefold() if number >= len(SPECIAL) else token, len(numbers) + 1)
    mixed = rng.randint(1, 2**62, len(numbers) + 1).astype(np.uint64) | np.uint64(1)
    keys = np.zeros(len(tokens), np.uint64)
    for start in range(0, len(tokens), 4096):
        block = np.asarray(tokens[start : start + 4096])
        ids = table[block]
        position = np.cumsum(ids > 0, 1).astype(np.uint64)
        value = mixed[ids] * (position * np.uint64(0x9E3779B97F4A7C15) | np.uint64(1))
        value ^= value >> np.uint64(29)
        key = np.where(ids > 0, value * np.uint64(0xBF58476D1CE4E5B9), 0).sum(1, np.uint64)
        unknown, length = (block == UNKNOWN).sum(1), (ids > 0).sum(1)
        is_certain = (length > 0) & ((unknown == 0) | ((length - unknown >= 30) & (unknown * 10 <= length)))
        keys[start : start + 4096] = np.where(is_certain, key | np.uint64(1), 0)
    return keys


def _equal_leaks(splits: dict[str, SplitPart], keys: dict[str, np.ndarray]) -> dict[int, tuple[str, int, float]]:
    """Return the test samples, by their position in the split, that equal a sample of train or validation."""
    leaks: dict[int, tuple[str, int, float]] = {}
    for split in ("validation", "train"):
        order = np.argsort(keys[split], kind="stable")
        position = np.minimum(np.searchsorted(keys[split][order], keys["test"]), len(order) - 1)
        for number in np.flatnonzero((keys[split][order][position] == keys["test"]) & (keys["test"] != 0)).tolist():
            leaks[number] = (split, int(splits[split].rows[order[position[number]]]), 1.0)
    return leaks


class _NearImages(NamedTuple):
    near: dict[int, tuple[str, int, float]]
    """Split, row and likeness of the near copy by test image."""
    compared: int
    """Number of test images that were searched for."""
    power: float
    features: np.ndarray
    """Features (N, D) of all training images."""


def _near_images(splits: dict[str, SplitPart], leaks: dict[int, tuple[str, int, float]]) -> _NearImages:
    """Search train and validation for near copies of test images; all of them if that is affordable."""
    train, validation, test = splits["train"], splits["validation"], splits["test"]
    some = np.linspace(0, len(train.inputs) - 1, min(2048, len(train.inputs))).astype(int)
    projection = near_copies.Projection.of(near_copies.describe(train.inputs[some]))
    points, queries = projection.project(train.inputs), projection.project(test.inputs)
    places = [("train", train.inputs, points)]
    if validation.file == "validation":
        places.append(("validation", validation.inputs, projection.project(validation.inputs)))
    searches = {
        split: near_copies.CopySearch(
            projection, queries, references, near_copies.compare_images(test.inputs, inputs), int(inputs[0].size)
        )
        for split, inputs, references in places
    }
    chosen = near_copies.affordable(list(searches.values()), len(test))
    in_validation = set(validation.rows.tolist()) if len(places) == 1 else set()
    near: dict[int, tuple[str, int, float]] = {}
    for split, search in searches.items():
        for query, (row, likeness) in search.find(chosen).items():
            if query not in leaks and likeness > near.get(query, ("", 0, 0.0))[2]:
                near[query] = ("validation" if row in in_validation else split, row, likeness)
    return _NearImages(near, len(chosen), near_copies.RECALL * len(chosen) / len(test), projection.features(points))


def _standardised(data: DataRef, inputs: np.ndarray) -> np.ndarray:
    """Return standardised numbers (N, D); more than 32 are projected onto 32 random directions."""
    flat = np.asarray(inputs, np.float32).reshape(len(inputs), -1)
    flat = (flat - flat.mean(0)) / np.maximum(flat.std(0), 1e-6)
    if flat.shape[1] > 32:
        flat = flat @ (np.random.RandomState(0).standard_normal((flat.shape[1], 32)) / 32**0.5).astype(np.float32)
    return flat


def _contradictions(data: DataRef, splits: dict[str, SplitPart], keys: dict[str, np.ndarray]) -> dict[str, Any]:
    """Find equal inputs with different labels in train and validation."""
    parts = [splits["train"], splits["validation"]]
    values = np.concatenate([keys["train"], keys["validation"]])
    labels = np.concatenate([part.labels[part.rows] for part in parts])
    if data.task_object.counts(labels, len(data.classes)) is None or not len(values):
        return {"contradictions": 0, "contradicting": ()}
    if labels.ndim > 1:
        labels = np.unique(labels, axis=0, return_inverse=True)[1].ravel()
    rows = np.concatenate([part.rows if part.file == "train" else np.full(len(part), -1) for part in parts])
    order = np.lexsort((labels, values))
    # A group begins at each change of the key; most hold one sample.
    starts = np.flatnonzero(np.r_[True, values[order][1:] != values[order][:-1]])
    ends = np.r_[starts[1:], len(order)]
    several = np.flatnonzero(ends - starts > 1)
    groups = [order[starts[number] : ends[number]] for number in several.tolist()]
    contradicting = [group for group in groups if values[group[0]] and labels[group[0]] != labels[group[-1]]]
    listed = [tuple(sorted(int(rows[member]) for member in group if rows[member] >= 0)) for group in contradicting]
    return {
        "contradictions": sum(map(len, contradicting)),
        "contradicting": tuple(sorted(group for group in listed if len(group) > 1)[:MOST_LISTED]),
    }
