"""Look at a prepared data set before a run is spent on it: balance, copies, leaks between splits, doubtful labels."""

import dataclasses
import hashlib
import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from torchmill.components import files
from torchmill.components.data import neighbours, samples
from torchmill.components.data.fetch import read_vocabulary
from torchmill.components.data.origins import read_origins
from torchmill.components.data.splits import stratified_split
from torchmill.components.data.vocabulary import SPECIAL, UNKNOWN, Vocabulary
from torchmill.components.errors import UserError
from torchmill.components.refs import PADDING, DataRef

LOPSIDED = 10
"""From here on, the largest class over the smallest is worth a word."""

MOST_TOLD = 100
"""Of each kind of finding so many are listed; all are counted."""


class Leak(NamedTuple):
    """A test sample that is known from training."""

    row: int
    """In the test file."""
    split: str
    other_row: int
    """In the file of that split; the training file, where validation is cut from it."""
    likeness: float
    """1 is equal."""
    origin: str = ""
    """Where the test sample comes from, as its file below the folder that was named; empty where that isn't known."""
    other_origin: str = ""

    def words(self) -> str:
        known, other = self.origin or f"test {self.row}", self.other_origin or f"{self.split} {self.other_row}"
        return f"{known} {'is' if self.likeness == 1 else 'is nearly'} {other}"


class Suspect(NamedTuple):
    """A training sample whose label its neighbours doubt."""

    row: int
    """In the training file."""
    label: str
    neighbours: str
    """The label that these have."""
    distance: float
    """Of them, over that of the nearest of its own label (squared)."""
    origin: str = ""
    """Where it comes from."""


@dataclass(frozen=True)
class Findings:
    kind: str
    task: str
    shape: tuple[int, ...]
    classes: tuple[str, ...]
    sizes: dict[str, int]
    """Samples by split, validation as the run cuts it."""
    counts: dict[str, dict[str, int]]
    """Samples by split and class (or label); none of a regression."""
    majority_share: float
    """Share of the largest class in the training split: what an answer that is always the same gets; 0 without
    classes."""
    imbalance: float
    """The largest class over the smallest; 1 is balanced, 0 is without classes."""
    constant_features: tuple[int, ...]
    """Features or pixels (in the order of the flattened input) that are the same in all training samples."""
    constant_count: int
    equal_features: tuple[tuple[int, int], ...]
    """Pairs of features that are always equal; of numbers alone."""
    copies_within: dict[str, int]
    """Samples that are equal to an earlier one of their split."""
    equal_across: dict[str, int]
    """Samples of the second split that are equal to one of the first."""
    near_across: dict[str, int]
    """Nearly equal ones beside these."""
    leakage: float
    """Share of test samples that are in train or validation, equal or nearly so."""
    leaks: tuple[Leak, ...]
    compared: int
    """Test samples that were looked at for near copies; where not all were, these stand for all."""
    contradictions: int
    """Training and validation samples whose input has other labels elsewhere."""
    contradicting: tuple[tuple[int, ...], ...]
    """Rows of the training file with equal inputs and different labels."""
    contradicting_origins: tuple[tuple[str, ...], ...]
    """The same by where they come from; empty where that is not known."""
    suspects: tuple[Suspect, ...]
    suspect_count: int
    seconds: float

    def lines(self) -> list[str]:
        """What a user should know before the training begins; nothing where all is well."""
        told = []
        copies, near = sum(self.equal_across.values()), sum(self.near_across.values())
        if self.leaks or copies or near:
            told.append(
                f"{self.leakage:.2%} of the test samples are in train or validation, too; between all splits "
                f"{copies:,} equal and {near:,} nearly equal"
            )
        if self.contradictions:
            told.append(f"{self.contradictions:,} samples have an equal one with another label")
        if self.suspect_count:
            first = "; ".join(f"{one.origin} '{one.label}' or '{one.neighbours}'?" for one in self.suspects[:3])
            told.append(
                f"{self.suspect_count:,} labels are doubtful: their neighbours have another one"
                + (f" ({first})" if self.suspects[0].origin else "")
            )
        if self.imbalance > LOPSIDED:
            told.append(
                f"the largest class has {self.imbalance:.0f} times the samples of the smallest; "
                f"always answering it is right for {self.majority_share:.0%}"
            )
        if self.kind == "numbers" and self.constant_count:
            told.append(f"{self.constant_count:,} features are the same in all training samples")
        if self.equal_features:
            told.append(f"{len(self.equal_features):,} pairs of features are always equal")
        return told


class Leakage(UserError):
    """Test samples were trained on."""


def leakage_error(data: DataRef, found: Findings, limit: float) -> Leakage:
    """Say which test samples are known from training."""
    shown = "; ".join(leak.words() for leak in found.leaks[:3])
    return Leakage(
        f"{found.leakage:.2%} of the test samples of {data.name} are among the training samples, equal or nearly so "
        f"(allowed: {limit:.2%}): {shown}. A score on them would flatter.",
        "Take them out (inspection.json of the run lists them), or train anyway with --data.allow-leakage.",
    )


def inspect(data: DataRef, validation_fraction: float, seed: int, folder: Path) -> Findings:
    """Look at all splits; writes ``inspection.json``, ``samples.png`` and, of texts, ``samples.txt`` into ``folder``.

    Deterministic but for the seconds, which the file leaves out.
    """
    began = time.monotonic()
    splits = _read(data, validation_fraction, seed)
    vocabulary = None
    if data.kind == "tokens":
        vocabulary = read_vocabulary(data)
    found = {
        **_balance(data, splits),
        **_features(data, splits["train"]),
        **_with_origins(data.folder, splits, _copies(data, splits, vocabulary)),
    }
    findings = Findings(
        kind=data.kind,
        task=data.task,
        shape=data.shape,
        classes=data.classes,
        sizes={split: len(part) for split, part in splits.items()},
        seconds=time.monotonic() - began,
        **found,
    )
    folder.mkdir(parents=True, exist_ok=True)
    told = dataclasses.asdict(findings)
    del told["seconds"]
    told |= {name: [one._asdict() for one in getattr(findings, name)] for name in ("leaks", "suspects")}
    files.write_text(folder / "inspection.json", json.dumps(told, indent=1, ensure_ascii=False))
    train = splits["train"]
    marked = [one.row for one in findings.suspects]
    samples.draw(data, train.inputs, train.labels, train.rows, marked, vocabulary, folder)
    return dataclasses.replace(findings, seconds=time.monotonic() - began)


@dataclass(frozen=True, eq=False)
class _Part:
    """Some rows of a file."""

    file: str
    inputs: np.ndarray
    """Of the file, mapped into memory."""
    labels: np.ndarray
    rows: np.ndarray

    def __len__(self) -> int:
        return len(self.rows)


def _read(data: DataRef, validation_fraction: float, seed: int) -> dict[str, _Part]:
    def opened(split: str) -> tuple[np.ndarray, np.ndarray]:
        labels = np.load(data.folder / f"{split}_labels.npy")
        return np.load(data.folder / f"{split}_inputs.npy", mmap_mode="r"), labels

    def whole(split: str) -> _Part:
        inputs, labels = opened(split)
        return _Part(split, inputs, labels, np.arange(len(labels)))

    if data.validation_size:
        return {split: whole(split) for split in ("train", "validation", "test")}
    inputs, labels = opened("train")
    training, validation = stratified_split(labels, validation_fraction, seed)
    cut = {"train": training, "validation": validation}
    return {**{split: _Part("train", inputs, labels, rows) for split, rows in cut.items()}, "test": whole("test")}


def _balance(data: DataRef, splits: dict[str, _Part]) -> dict[str, Any]:
    if data.task == "regression":
        return {"counts": {}, "majority_share": 0.0, "imbalance": 0.0}
    counts = {}
    for split, part in splits.items():
        labels = part.labels[part.rows]
        number = np.bincount(labels, minlength=len(data.classes)) if labels.ndim == 1 else labels.sum(0, np.int64)
        counts[split] = dict(zip(data.classes, number.tolist(), strict=True))
    held = [count for count in counts["train"].values() if count]
    largest, smallest = max(held, default=0), min(held, default=0)
    share = largest / max(1, len(splits["train"])) if data.task == "classification" else 0.0
    return {"counts": counts, "majority_share": share, "imbalance": largest / smallest if smallest else 0.0}


def _features(data: DataRef, train: _Part) -> dict[str, Any]:
    """Features that tell nothing, or the same as another one."""
    if data.kind == "tokens":
        return {"constant_features": (), "constant_count": 0, "equal_features": ()}
    size = int(np.prod(data.shape))
    first = np.asarray(train.inputs[train.rows[0]])
    constant = np.ones(first.shape, bool)
    hashes = [hashlib.blake2b(digest_size=16) for _ in range(size if data.kind == "numbers" and size <= 4096 else 0)]
    for start in range(0, len(train.inputs), 4096):
        # The whole training file: what validation alone varies in is no constant.
        block = np.asarray(train.inputs[start : start + 4096])
        constant &= (block.max(0) == first) & (block.min(0) == first)
        columns = np.ascontiguousarray(block.reshape(len(block), -1).T) if hashes else ()
        for column, hashed in zip(columns, hashes, strict=bool(hashes)):
            hashed.update(column)
    where = np.flatnonzero(constant).tolist()
    seen: dict[bytes, int] = {}
    equal = []
    for number, hashed in enumerate(hashes):
        earlier = seen.setdefault(hashed.digest(), number)
        if earlier != number and not constant.ravel()[number]:
            equal.append((earlier, number))
    return {
        "constant_features": tuple(where[:MOST_TOLD]),
        "constant_count": len(where),
        "equal_features": tuple(equal[:MOST_TOLD]),
    }


def _copies(data: DataRef, splits: dict[str, _Part], vocabulary: Vocabulary | None) -> dict[str, Any]:
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
    elif data.kind == "numbers" and data.task == "classification":
        points = _standardised(data, splits["train"].inputs)
    told = sorted({**near, **leaks}.items())
    share = len(leaks) / max(1, len(splits["test"])) + len(near) / max(1, compared)
    suspects = (
        neighbours.doubted(points, splits["train"].labels)
        if points is not None and data.task == "classification"
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


def _with_origins(folder: Path, splits: dict[str, _Part], found: dict[str, Any]) -> dict[str, Any]:
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


def _equal_leaks(splits: dict[str, _Part], keys: dict[str, np.ndarray]) -> dict[int, tuple[str, int, float]]:
    """Test samples, by their place in the split, that have an equal one in train or validation."""
    found: dict[int, tuple[str, int, float]] = {}
    for split in ("validation", "train"):
        order = np.argsort(keys[split], kind="stable")
        at = np.minimum(np.searchsorted(keys[split][order], keys["test"]), len(order) - 1)
        for number in np.flatnonzero((keys[split][order][at] == keys["test"]) & (keys["test"] != 0)).tolist():
            found[number] = (split, int(splits[split].rows[order[at[number]]]), 1.0)
    return found


def _near_images(
    splits: dict[str, _Part], leaks: dict[int, tuple[str, int, float]]
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


def _contradictions(data: DataRef, splits: dict[str, _Part], keys: dict[str, np.ndarray]) -> dict[str, Any]:
    """Equal inputs with different labels, in train and validation."""
    parts = [splits["train"], splits["validation"]]
    held = np.concatenate([keys["train"], keys["validation"]])
    labels = np.concatenate([part.labels[part.rows] for part in parts])
    if data.task == "regression" or not len(held):
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
