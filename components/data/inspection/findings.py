"""The findings of a data set's inspection, and their words."""

import math
from dataclasses import dataclass
from typing import NamedTuple

from torchmill.components import fields
from torchmill.components.errors import UserError
from torchmill.components.refs import DataRef
from torchmill.components.wording import count, percent

LOPSIDED = 10
"""Ratio of the largest class to the smallest above which the imbalance is reported."""

WORTH_SAYING = 0.98
"""Power of the search for near copies below which it is reported."""

MOST_LISTED = 100
"""Number of findings of each kind that are listed; all are counted."""


class Leak(NamedTuple):
    """A test sample that is also in train or validation."""

    row: int
    """Row in the test file."""
    split: str
    other_row: int
    """Row in the file of that split; in the training file if validation is cut from it."""
    likeness: float
    """Likeness of the two; 1 is equal."""
    origin: str = ""
    """Origin of the test sample, for example its file; empty if it is unknown."""
    other_origin: str = ""
    verb: str = ""
    """Relation to the other sample in words, for example ``overlaps``; empty of equal and nearly equal samples."""

    def words(self) -> str:
        """Return the finding in words."""
        test, training = self.origin or f"test {self.row}", self.other_origin or f"{self.split} {self.other_row}"
        return f"{test} {self.verb or ('is' if self.likeness == 1 else 'is nearly')} {training}"


class Suspect(NamedTuple):
    """A training sample whose label its neighbours doubt."""

    row: int
    """Row in the training file."""
    label: str
    neighbours: str
    """Label of the neighbours."""
    distance: float
    """Squared distance of the neighbours, over that of the nearest sample with the same label."""
    origin: str = ""
    """Origin of the sample; empty if it is unknown."""


@dataclass(frozen=True)
class Findings:
    """Everything that an inspection finds. ``inspection.json`` holds the same."""

    kind: str
    task: str
    shape: tuple[int, ...]
    classes: tuple[str, ...]
    sizes: dict[str, int]
    """Number of samples by split, with validation as the run cuts it."""
    counts: dict[str, dict[str, int]]
    """Number of samples by split and class (or label); empty for a regression."""
    majority_share: float
    """Share of the largest class in the training split, which a constant answer reaches; 0 without classes."""
    imbalance: float
    """Size of the largest class over that of the smallest; 1 is balanced, 0 is without classes."""
    constant_features: tuple[int, ...]
    """Features or pixels (in the order of the flattened input) that are the same in all training samples."""
    constant_count: int
    equal_features: tuple[tuple[int, int], ...]
    """Pairs of features that are always equal, for numbers."""
    copies_within: dict[str, int]
    """Number of samples that equal an earlier one of their split."""
    equal_across: dict[str, int]
    """Number of samples of the second split that equal one of the first."""
    near_across: dict[str, int]
    """Number of test samples that nearly equal a sample of the first split."""
    leakage: float
    """Share of test samples that are, or nearly are, in train or validation."""
    leaks: tuple[Leak, ...]
    compared: int
    """Number of test samples that were searched for near copies: all, or a sample that stands for all."""
    power: float
    """Share of all near copies of test samples that the search would find; equal ones are always found."""
    contradictions: int
    """Number of training and validation samples whose input occurs with another label."""
    contradicting: tuple[tuple[int, ...], ...]
    """Rows of the training file with equal inputs and different labels."""
    contradicting_origins: tuple[tuple[str, ...], ...]
    """Origins of these rows; empty if they are unknown."""
    suspects: tuple[Suspect, ...]
    suspect_count: int
    labels_compared: float
    """Share of the training file's labels that were compared with their neighbours'; the others aren't doubted."""
    seconds: float
    overlapping: int = 0
    """Number of test windows of a series that share steps with training windows."""

    def lines(self) -> list[str]:
        """Return the findings that a user should read before training, in words; none if all is well."""
        lines = []
        copies, near = sum(self.equal_across.values()), sum(self.near_across.values())
        if self.overlapping:
            words = next(leak.words() for leak in self.leaks if leak.verb)
            lines.append(
                f"{percent(self.leakage)} of the test windows are, or overlap, training windows ({words}): windows of "
                "one series that are cut at random"
            )
        elif self.leaks or copies or near:
            lines.append(
                f"{percent(self.leakage)} of the test samples are in train or validation, too; between all splits "
                f"{copies:,} equal and {near:,} nearly equal"
            )
        if self.power < WORTH_SAYING:
            surely = math.ceil(math.log(0.05) / math.log(1 - self.power))
            lines.append(
                f"near copies were searched for among {self.compared:,} of {self.sizes['test']:,} test samples: of "
                f"such copies, {percent(self.power, 0)} would have been found, of {surely:,} or more at least one "
                "(95 % sure)"
            )
        if self.contradictions:
            verb = "has" if self.contradictions == 1 else "have"
            lines.append(f"{count(self.contradictions, 'sample')} {verb} an equal one with another label")
        if self.suspect_count:
            first = "; ".join(
                f"{suspect.origin} '{suspect.label}' or '{suspect.neighbours}'?" for suspect in self.suspects[:3]
            )
            share = "" if self.labels_compared == 1 else f" among {percent(self.labels_compared, 0)} of the labels"
            lines.append(
                f"{count(self.suspect_count, 'suspect label')}{share}: the neighbours have another one"
                + (f" ({first})" if self.suspects[0].origin else "")
            )
        if self.imbalance > LOPSIDED:
            lines.append(
                f"the largest class has {self.imbalance:.0f} times the samples of the smallest; "
                f"always answering it is right for {percent(self.majority_share, 0)}"
            )
        if not fields.field(self.kind).is_picture and self.constant_count:
            lines.append(f"the same in all training samples: {count(self.constant_count, 'feature')}")
        if self.equal_features:
            lines.append(f"always equal: {count(len(self.equal_features), 'pair')} of features")
        return lines


class Leakage(UserError):
    """Test samples were trained on."""


def leakage_error(data: DataRef, findings: Findings, limit: float) -> Leakage:
    """Return the error for a data set whose leakage is above the limit. It names some of the test samples."""
    examples = "; ".join(leak.words() for leak in findings.leaks[:3])
    if findings.overlapping:
        return Leakage(
            f"{percent(findings.leakage)} of the test windows of {data.name} are, or overlap, training windows "
            f"(allowed: {percent(limit)}): {examples}. A score on them would flatter.",
            "Cut by time, with --data.split last or series:FILE; or name the series of each window by 'groups' beside "
            "'train'. To train anyway: --data.allow_leakage.",
        )
    return Leakage(
        f"{percent(findings.leakage)} of the test samples of {data.name} are among the training samples, equal or "
        f"nearly so (allowed: {percent(limit)}): {examples}. A score on them would flatter.",
        "Take them out (inspection.json of the run lists them), or train anyway with --data.allow_leakage.",
    )
