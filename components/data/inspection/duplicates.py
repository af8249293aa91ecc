"""Samples that are in several splits, or twice with different labels."""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from torchmill.components.data.encoding.vocabulary import SPECIAL, UNKNOWN, Vocabulary
from torchmill.components.data.inspection import nearest_neighbours as neighbours
from torchmill.components.data.inspection.findings import MOST_TOLD, Leak, Suspect
from torchmill.components.data.origins import read_origins
from torchmill.components.refs import PADDING, DataRef


@dataclass(frozen=True, eq=False)
class SplitPart:
    """Some rows of a file."""

    file: str
    inputs: np.ndarray
    """Of the file, mapped into memory."""
    labels: np.ndarray
    rows: np.ndarray

    def __len__(self) -> int:
        return len(self.rows)


def find_copies(data: DataRef, splits: dict[str, SplitPart], vocabulary: Vocabulary | None) -> dict[str, Any]:
    by_file = {part.file: part for part in splits.values()}
    equal = {file: _digests(part.inputs) for file, part in by_file.items()}
    keys = {split: equal[part.file][part.rows] for split, part in splits.items()}
    alike = keys
    if vocabulary:  # texts that differ in case or punctuation alone
        folded = {file: _text_keys(part.inputs, vocabulary) for file, part in by_file.items()}
        alike = {split: folded[part.file][part.rows] for split, part in splits.items()}
        keys = {split: np.where(alike[split] != 0, one, _own_keys(one, split)) for split, one in keys.items()}
    across = (("train", "validation"), ("train", "test"), ("validation", "test"))
    leaks = _equal_leaks(splits, keys)
    near, compared = {}, len(splits["test"])
    points = None
    if vocabulary:
        for number, found in _equal_leaks(splits, alike).items():
            if number not in leaks and alike["test"][number]:
                near[number] = (found[0], found[1], 0.99)
    elif data.kind == "images":
        near, compared, points = _near_images(splits, leaks)
    elif data.kind == "numbers" and data.task_object.is_exclusive:
        points = _standardised(data, splits["train"].inputs)
    told = sorted({**near, **leaks}.items())
    share = len(leaks) / max(1, len(splits["test"])) + len(near) / max(1, compared)
    suspects = (
        neighbours.doubted(points, splits["train"].labels)
        if points is not None and data.task_object.is_exclusive
        else []
    )
    return {
        "copies_within": {split: len(one) - len(np.unique(one)) for split, one in keys.items()},
        "equal_across": {f"{a}-{b}": int(np.isin(keys[b], keys[a]).sum()) for a, b in across},
        "near_across": {
            f"{split}-test": sum(place == split for place, _, _ in near.values()) for split in ("train", "validation")
        },
        "leakage": min(1.0, share),
        "leaks": tuple(Leak(int(splits["test"].rows[number]), *found) for number, found in told[:MOST_TOLD]),
        "compared": compared,
        **_contradictions(data, splits, alike),
        "suspects": tuple(
            Suspect(row, data.classes[int(splits["train"].labels[row])], data.classes[other], share)
            for row, other, share in suspects[:MOST_TOLD]
        ),
        "suspect_count": len(suspects),
    }


def with_origins(folder: Path, splits: dict[str, SplitPart], found: dict[str, Any]) -> dict[str, Any]:
    """Add where those samples come from that are listed."""
    leaks, suspects, groups = found["leaks"], found["suspects"], found["contradicting"]
    wanted: dict[str, set[int]] = {part.file: set() for part in splits.values()}
    for leak in leaks:
        wanted["test"].add(leak.row)
        wanted[splits[leak.split].file].add(leak.other_row)
    wanted["train"] |= {one.row for one in suspects} | {row for group in groups for row in group}
    known = {file: read_origins(folder, file, rows) for file, rows in wanted.items()}
    train = known["train"]
    return {
        **found,
        "leaks": tuple(
            leak._replace(
                origin=known["test"].get(leak.row, ""),
                other_origin=known[splits[leak.split].file].get(leak.other_row, ""),
            )
            for leak in leaks
        ),
        "suspects": tuple(one._replace(origin=train.get(one.row, "")) for one in suspects),
        "contradicting_origins": tuple(tuple(train[row] for row in group) for group in groups) if train else (),
    }


def _digests(inputs: np.ndarray) -> np.ndarray:
    """64 bits of each row."""
    told = []
    for start in range(0, len(inputs), 4096):
        block = np.asarray(inputs[start : start + 4096])
        told += [hashlib.blake2b(row.tobytes(), digest_size=8).digest() for row in block]
    return np.frombuffer(b"".join(told), np.uint64)


def _own_keys(keys: np.ndarray, split: str) -> np.ndarray:
    """Keys that nothing else has."""
    start = {"train": 1, "validation": 2, "test": 3}[split] << 40
    return np.arange(start, start + len(keys), dtype=np.uint64)


def _text_keys(tokens: np.ndarray, vocabulary: Vocabulary) -> np.ndarray:
    """A number for each text, but for case and, of words, punctuation; 0 where too little of it is known to say.

    Two words that the vocabulary doesn't know are one token, and need not be one word.
    """
    known: dict[str, int] = {}
    table = np.zeros(len(vocabulary.tokens), np.uint64)
    rng = np.random.RandomState(0)
    for number, token in enumerate(vocabulary.tokens):
        if number != PADDING and (vocabulary.level == "characters" or number < len(SPECIAL) or token.isalnum()):
            table[number] = known.setdefault(token.casefold() if number >= len(SPECIAL) else token, len(known) + 1)
    mixed = rng.randint(1, 2**62, len(known) + 1).astype(np.uint64) | np.uint64(1)
    keys = np.zeros(len(tokens), np.uint64)
    for start in range(0, len(tokens), 4096):
        block = np.asarray(tokens[start : start + 4096])
        ids = table[block]
        place = np.cumsum(ids > 0, 1).astype(np.uint64)
        value = mixed[ids] * (place * np.uint64(0x9E3779B97F4A7C15) | np.uint64(1))
        value ^= value >> np.uint64(29)
        key = np.where(ids > 0, value * np.uint64(0xBF58476D1CE4E5B9), 0).sum(1, np.uint64)
        unknown, held = (block == UNKNOWN).sum(1), (ids > 0).sum(1)
        sure = (held > 0) & ((unknown == 0) | ((held - unknown >= 30) & (unknown * 10 <= held)))
        keys[start : start + 4096] = np.where(sure, key | np.uint64(1), 0)
    return keys


def _equal_leaks(splits: dict[str, SplitPart], keys: dict[str, np.ndarray]) -> dict[int, tuple[str, int, float]]:
    """Test samples, by their place in the split, that have an equal one in train or validation."""
    found: dict[int, tuple[str, int, float]] = {}
    for split in ("validation", "train"):
        order = np.argsort(keys[split], kind="stable")
        at = np.minimum(np.searchsorted(keys[split][order], keys["test"]), len(order) - 1)
        for number in np.flatnonzero((keys[split][order][at] == keys["test"]) & (keys["test"] != 0)).tolist():
            found[number] = (split, int(splits[split].rows[order[at[number]]]), 1.0)
    return found


def _near_images(
    splits: dict[str, SplitPart], leaks: dict[int, tuple[str, int, float]]
) -> tuple[dict[int, tuple[str, int, float]], int, np.ndarray]:
    """Near copies of test images in train and validation; how many were looked for; all training images projected."""
    train, test = splits["train"], splits["test"]
    some = np.linspace(0, len(train.inputs) - 1, min(2048, len(train.inputs))).astype(int)
    projection = neighbours.Projection.of(neighbours.describe(train.inputs[some]))
    points = neighbours.project(train.inputs, projection)
    places = [("train", train.inputs, points)]
    if splits["validation"].file == "validation":
        places.append(
            ("validation", splits["validation"].inputs, neighbours.project(splits["validation"].inputs, projection))
        )
    references = sum(len(held) for _, held, _ in places)
    queries = np.arange(len(test))
    if len(queries) * references > neighbours.MOST_PAIRS:
        most = max(500, neighbours.MOST_PAIRS // references)
        queries = np.sort(np.random.RandomState(0).choice(len(test), min(most, len(test)), replace=False))
    projected = neighbours.project(test.inputs[queries], projection)
    in_validation = set(splits["validation"].rows.tolist()) if len(places) == 1 else set()
    near: dict[int, tuple[str, int, float]] = {}
    for split, inputs, held in places:
        compare = neighbours.compare_images(test.inputs[queries], inputs)
        for number, (row, likeness) in neighbours.near_copies(projected, held, compare).items():
            place = int(queries[number])
            if place not in leaks and likeness > near.get(place, ("", 0, 0.0))[2]:
                near[place] = ("validation" if row in in_validation else split, row, likeness)
    return near, len(queries), points


def _standardised(data: DataRef, inputs: np.ndarray) -> np.ndarray:
    """Numbers (N, D) of the same weight, in at most 32 random directions."""
    flat = np.asarray(inputs, np.float32).reshape(len(inputs), -1)
    flat = (flat - flat.mean(0)) / np.maximum(flat.std(0), 1e-6)
    if flat.shape[1] > 32:
        flat = flat @ (np.random.RandomState(0).standard_normal((flat.shape[1], 32)) / 32**0.5).astype(np.float32)
    return flat


def _contradictions(data: DataRef, splits: dict[str, SplitPart], keys: dict[str, np.ndarray]) -> dict[str, Any]:
    """Equal inputs with different labels, in train and validation."""
    parts = [splits["train"], splits["validation"]]
    held = np.concatenate([keys["train"], keys["validation"]])
    labels = np.concatenate([part.labels[part.rows] for part in parts])
    if data.task_object.counts(labels, len(data.classes)) is None or not len(held):
        return {"contradictions": 0, "contradicting": ()}
    if labels.ndim > 1:
        labels = np.unique(labels, axis=0, return_inverse=True)[1].ravel()
    rows = np.concatenate([part.rows if part.file == "train" else np.full(len(part), -1) for part in parts])
    order = np.lexsort((labels, held))
    # A group begins where the key changes; most are of one sample, and need not be looked at.
    starts = np.flatnonzero(np.r_[True, held[order][1:] != held[order][:-1]])
    ends = np.r_[starts[1:], len(order)]
    several = np.flatnonzero(ends - starts > 1)
    groups = [order[starts[one] : ends[one]] for one in several.tolist()]
    wrong = [group for group in groups if held[group[0]] and labels[group[0]] != labels[group[-1]]]
    told = [tuple(sorted(int(rows[one]) for one in group if rows[one] >= 0)) for group in wrong]
    return {
        "contradictions": sum(map(len, wrong)),
        "contradicting": tuple(sorted(group for group in told if len(group) > 1)[:MOST_TOLD]),
    }
