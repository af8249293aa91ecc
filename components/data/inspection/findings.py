"""What an inspection of a data set finds, in words."""

from dataclasses import dataclass
from typing import NamedTuple

from torchmill.components.errors import UserError
from torchmill.components.refs import DataRef
from torchmill.components.wording import count, percent

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
                f"{percent(self.leakage)} of the test samples are in train or validation, too; between all splits "
                f"{copies:,} equal and {near:,} nearly equal"
            )
        if self.contradictions:
            verb = "has" if self.contradictions == 1 else "have"
            told.append(f"{count(self.contradictions, 'sample')} {verb} an equal one with another label")
        if self.suspect_count:
            first = "; ".join(f"{one.origin} '{one.label}' or '{one.neighbours}'?" for one in self.suspects[:3])
            told.append(
                f"{count(self.suspect_count, 'doubtful label')}: the neighbours have another one"
                + (f" ({first})" if self.suspects[0].origin else "")
            )
        if self.imbalance > LOPSIDED:
            told.append(
                f"the largest class has {self.imbalance:.0f} times the samples of the smallest; "
                f"always answering it is right for {percent(self.majority_share, 0)}"
            )
        if self.kind == "numbers" and self.constant_count:
            told.append(f"the same in all training samples: {count(self.constant_count, 'feature')}")
        if self.equal_features:
            told.append(f"always equal: {count(len(self.equal_features), 'pair')} of features")
        return told


class Leakage(UserError):
    """Test samples were trained on."""


def leakage_error(data: DataRef, found: Findings, limit: float) -> Leakage:
    """Say which test samples are known from training."""
    shown = "; ".join(leak.words() for leak in found.leaks[:3])
    return Leakage(
        f"{percent(found.leakage)} of the test samples of {data.name} are among the training samples, equal or nearly "
        f"so (allowed: {percent(limit)}): {shown}. A score on them would flatter.",
        "Take them out (inspection.json of the run lists them), or train anyway with --data.allow_leakage.",
    )
