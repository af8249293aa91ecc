"""Contests that a test split has decided; a tag of the registered model stores them. Imports no MLflow.

A hold-out that decides again and again wears out: Dwork et al., Science 349, 2015; Blum & Hardt, ICML 2015.
"""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass, replace

from torchmill.components.state_files import Damaged, parse_json
from torchmill.components.tracking.champions import ModelVersion

CONTESTS_TAG = "torchmill.contests"
"""Tag of a registered model with its contests."""

MAX_SPLITS, MAX_PAIRS = 4, 40
"""Test splits, and pairs of models for each, that a tag keeps: MLflow's tags take 5,000 characters."""

ALIKE = 0.5
"""Least share of common samples of one test split before and after it grew."""


@dataclass(frozen=True)
class Contest:
    """A comparison of two models on a test split."""

    test: str
    """Sketch of the test split: its lowest digests, in hexadecimal, separated by blanks."""
    pair: str
    """Digest of both models and of all test samples: the same pair on the same samples is the same contest."""
    data_sha256: str
    """Digest of the data; earlier versions recorded contests by it."""

    @classmethod
    def of(cls, champion: str, challenger: str, digests: Iterable[int], data_sha256: str) -> "Contest":
        """Return the contest of two models on a test split.

        Args:
            champion: digest of the ONNX file, or another name of the model.
            digests: digests of the test samples.
        """
        samples = sorted(set(digests))
        whole = hashlib.sha256(" ".join([champion, challenger, *map(str, samples)]).encode()).hexdigest()
        return cls(" ".join(f"{digest:016x}" for digest in samples[:32]), whole[:8], data_sha256)


@dataclass(frozen=True)
class DecidedSplit:
    """A test split, with the number of contests that it has decided."""

    test: str
    """Sketch of the test split; or the data's digest, after ``data:``, if an earlier version recorded the contests."""
    decided: int
    pairs: tuple[str, ...] = ()
    """Latest pairs; the last one is the contest with the number ``decided``."""

    def holds(self, contest: Contest) -> bool:
        """Return True if a contest is on this split, though samples may have come or gone."""
        if self.test.startswith("data:"):
            return self.test == f"data:{contest.data_sha256}"
        ours, theirs = set(self.test.split()), set(contest.test.split())
        # The lowest digests of both: a sample of the union (bottom-k sketch, Cohen & Kaplan, PODC 2007).
        union = sorted(ours | theirs)[: max(len(ours), len(theirs))]
        return bool(union) and len(ours & theirs & set(union)) >= ALIKE * len(union)

    def number(self, contest: Contest) -> int:
        """Return the number of a contest, from 1: that of an earlier one if it is the same, or the next."""
        if contest.pair in self.pairs:
            return self.decided - len(self.pairs) + 1 + self.pairs.index(contest.pair)
        return self.decided + 1


@dataclass(frozen=True)
class Contests:
    """The test splits that have decided contests of a registered model; the latest comes last."""

    splits: tuple[DecidedSplit, ...] = ()

    @classmethod
    def from_json(cls, text: str) -> "Contests":
        """Parse the tag; a damaged one counts as no contest."""
        try:
            return cls(parse_json(text or "[]", tuple[DecidedSplit, ...]))
        except Damaged:
            return cls()

    @classmethod
    def of_versions(cls, versions: Iterable[ModelVersion]) -> "Contests":
        """Count the contests that earlier versions recorded, in tags of model versions."""
        counts: dict[str, int] = {}
        for version in versions:
            if "promotion.method" in version.tags and (data := version.tags.get("promotion.data")):
                counts[data] = counts.get(data, 0) + 1
        return cls(tuple(DecidedSplit(f"data:{data}", count) for data, count in counts.items()))

    def as_json(self) -> str:
        """Return the tag's text, with the latest splits."""
        rows = [vars(replace(split, pairs=split.pairs[-MAX_PAIRS:])) for split in self.splits[-MAX_SPLITS:]]
        return json.dumps(rows, separators=(",", ":"))

    def number(self, contest: Contest) -> int:
        """Return the number of a contest on its test split, from 1."""
        return self._split(contest).number(contest)

    def with_contest(self, contest: Contest) -> "Contests":
        """Return the contests with one more, unless it is there."""
        split = self._split(contest)
        others = tuple(other for other in self.splits if other is not split)
        if contest.pair not in split.pairs:
            split = DecidedSplit(contest.test, split.decided + 1, (*split.pairs, contest.pair))
        return Contests((*others, split))

    def _split(self, contest: Contest) -> DecidedSplit:
        matches = [split for split in self.splits if split.holds(contest)]
        return max(matches, key=lambda split: split.decided, default=DecidedSplit(contest.test, 0))
