"""An evaluation as ``evaluation.json`` holds it: measures with intervals, and details of classes, labels or targets."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import AliasChoices, BaseModel, ConfigDict, Field, model_validator

from torchmill.components.files import write_text
from torchmill.components.state_files import require_json

Ends = tuple[float, float]
"""Ends of a 95 % interval."""


class Entry(BaseModel):
    """A part of the file. Entries of other versions are ignored."""

    model_config = ConfigDict(frozen=True, extra="ignore", use_attribute_docstrings=True)


class Bin(Entry):
    """Samples of like confidence."""

    low: float = 0.0
    high: float = 1.0
    samples: int = 0
    confidence: float
    """Mean of the probabilities."""
    accuracy: float
    """Share that is right."""
    accuracy_95: Ends


class ClassEntry(Entry):
    """One class or label against the rest."""

    precision: float
    recall: float
    f1: float
    support: int
    answered: int = 0
    precision_95: Ends | None = None
    """None without answers."""
    recall_95: Ends | None = None
    """None without samples."""
    ece: float | None = None
    """Calibration error of a label."""
    average_precision: float | None = None
    reliability: tuple[Bin, ...] = ()
    """Bins of a label's probabilities."""


class Confusion(Entry):
    rows: str = "truth"
    columns: str = "answer"
    counts: list[list[int]] = []
    """Number of samples by row and column; empty if ``cells`` lists them."""
    cells: list[tuple[int, int, int]] = []
    """Row, column and number of samples of each cell that has some, for more than 100 classes."""


class Calibrated(Entry):
    """Calibration at one temperature."""

    ece: float
    ece_95: Ends | None = None
    loss: float
    bins: tuple[Bin, ...] = ()


class Calibration(Entry):
    temperature: float
    bins: str = ""
    """Bins in words."""
    before: Calibrated
    after: Calibrated
    """With logits divided by the temperature."""
    loss_change: float = 0.0
    loss_change_95: Ends = (0.0, 0.0)


class RankingEntry(Entry):
    """Curves that are means over classes or labels."""

    classes: dict[str, dict[str, float]] = {}
    true_positive_rate: list[float]
    precision: list[float]


class Residuals(Entry):
    truth: list[float]
    answer: list[float]


class TargetEntry(Entry):
    """One target of a regression, in its own unit."""

    mae: float
    rmse: float
    r2: float
    mae_95: Ends | None = None
    rmse_95: Ends | None = None
    r2_95: Ends | None = None
    residuals: Residuals = Residuals(truth=[], answer=[])


class Change(Entry):
    """Score of images that were changed."""

    images: str
    """Change in words."""
    score: float
    score_95: Ends


class Robustness(Entry):
    samples: int
    changes: tuple[Change, ...]
    """Images as they are come first."""


class Slice(Entry):
    """Samples with something in common."""

    by: str
    name: str
    samples: int
    errors: int
    rate: float
    rate_95: Ends
    stands_out: bool


class MistakeEntry(Entry):
    sample: int
    output: int = 0
    truth: str
    answer: str
    confidence: float | None = None
    text: str | None = None
    """Input, if it is a text or a row of a table."""
    input: list[float] | None = None
    """First numbers of the input."""


class WorstEntry(Entry):
    """A test sample for which the main measure is among the worst, at a task over named fields."""

    sample: int
    origin: str = ""
    value: float
    """Main measure of this sample alone."""


class Attribution(Entry):
    """Contributions of tokens or cells to one answer."""

    sample: int = 0
    truth: str
    answer: str
    right: bool
    tokens: list[str]
    attributions: list[float]


class SaliencyEntry(Entry):
    notes: list[str] = []
    texts: tuple[Attribution, ...] = ()


class Evaluation(Entry):
    """An evaluation of a network on a test split.

    The file holds measures and intervals beside everything else, the intervals as ``NAME_95``.

    Example:
        Evaluation.read(run.folder / "evaluation.json").measures["accuracy"]
    """

    samples: int = 0
    measure: str = ""
    """Name of the main measure."""
    field_task: str = ""
    """Task over named fields; empty of a task of labels."""
    measures: dict[str, float] = {}
    """Main measure first."""
    intervals: dict[str, Ends] = {}
    """Ends of 95 % intervals by measure."""
    loss: float = 0.0
    classes: dict[str, ClassEntry] = {}
    confusion: Confusion | None = None
    calibration: Calibration | None = None
    ranking: RankingEntry | None = None
    targets: dict[str, TargetEntry] = {}
    robustness: Robustness | None = None
    error_slices: tuple[Slice, ...] = Field((), validation_alias=AliasChoices("error_groups", "error_slices"))
    mistakes: tuple[MistakeEntry, ...] = ()
    worst: tuple[WorstEntry, ...] = ()
    saliency: SaliencyEntry = SaliencyEntry()
    pictures: list[str] = []

    @model_validator(mode="before")
    @classmethod
    def _from_file(cls, value: Any) -> Any:
        """Gather the measures and intervals, which lie among the other entries."""
        if not isinstance(value, Mapping) or "measures" in value:
            return value
        named = {*cls.model_fields, "error_groups"}
        rest = {name: held for name, held in value.items() if name not in named}
        intervals = {name.removesuffix("_95"): held for name, held in rest.items() if name.endswith("_95") and held}
        measures = {name: held for name, held in rest.items() if isinstance(held, int | float)}
        return {**value, "measures": measures, "intervals": intervals}

    @model_validator(mode="after")
    def _has_measures(self) -> "Evaluation":
        missing = sorted(self.intervals.keys() - {"loss", *self.measures})
        if missing:
            raise ValueError(f"no value of {', '.join(missing)}")
        return self

    @classmethod
    def read(cls, file: Path) -> "Evaluation":
        """Read an ``evaluation.json``, also one of an earlier version.

        Raises:
            UserError: it is missing or damaged.
        """
        return require_json(file, cls, "Run the same command again: the evaluation is done anew.")

    def write(self, file: Path) -> None:
        """Write it with the keys that ``read`` takes."""
        entries = self.model_dump(exclude_unset=True)
        main = self.measure
        measures, intervals = entries.pop("measures"), entries.pop("intervals")
        head = {name: entries.pop(name) for name in ("samples", "measure")}
        head |= {main: measures.pop(main), f"{main}_95": intervals.pop(main), **measures, "loss": entries.pop("loss")}
        head |= {f"{name}_95": ends for name, ends in intervals.items()}
        entries = {"error_groups" if name == "error_slices" else name: held for name, held in entries.items()}
        write_text(file, json.dumps({**head, **entries}, indent=1))
