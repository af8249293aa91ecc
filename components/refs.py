"""The small frozen things that travel between steps: paths, digests, ids."""

import hashlib
import math
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict

Kind = Literal["images", "tokens", "numbers"]
"""Of inputs: uint8 pixels (N, C, H, W); token ids (N, L), padded at the end; floats (N, F, …)."""
Task = Literal["classification", "multilabel", "regression"]

MEASURES: dict[Task, str] = {"classification": "accuracy", "multilabel": "label_accuracy", "regression": "r2"}
"""Share of right answers; share of right yes and no over all labels; share of the variance that is explained."""

PLAIN_LOSSES: dict[Task, str] = {
    "classification": "cross-entropy",
    "multilabel": "binary cross-entropy",
    "regression": "squared error",
}
"""What a test is told in, whatever was trained by."""

PADDING = 0
"""The token that fills a sequence up."""


class Ref(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    def identity(self) -> dict[str, str]:
        """What a later step takes from it: digests by what they are of. Neither paths nor durations count."""
        raise NotImplementedError(type(self).__name__)


class FileRef(Ref):
    """A file and what was in it when the reference was made."""

    path: Path
    sha256: str

    @classmethod
    def of(cls, path: Path) -> "FileRef":
        with path.open("rb") as file:
            return cls(path=path, sha256=hashlib.file_digest(file, "sha256").hexdigest())


class DataRef(Ref):
    """A prepared data set: a file of inputs and one of labels per split, in ``folder``."""

    name: str
    """As it was asked for: ``mnist``, ``image_folder:PATH``, ``file.py:function``."""
    args: dict[str, object] = {}
    """What its ``load`` was given."""
    folder: Path
    """Holds ``{train,validation,test}_{inputs,labels}.npy``, ``vocabulary.json`` where the inputs are tokens, and
    ``columns.json`` where they were read from a table."""
    sha256: str
    """Digest of the digests of these files."""
    source: str
    """Where the data comes from."""
    kind: Kind = "images"
    task: Task = "classification"
    shape: tuple[int, ...]
    """Of one input. Images: channels, height, width; tokens: the longest sequence; numbers: features first."""
    classes: tuple[str, ...]
    """Names of the classes, of the labels (multi-label) or of the targets (regression)."""
    train_size: int
    """Samples in the training file, from which the validation split is cut where there is none."""
    validation_size: int = 0
    """Of the data set's own validation split; 0 where it has none."""
    test_size: int
    mean: tuple[float, ...] = ()
    """Per channel or feature of the training inputs; pixels are scaled to 0…1. Empty for tokens."""
    std: tuple[float, ...] = ()
    target_mean: tuple[float, ...] = ()
    """Of the training targets of a regression."""
    target_std: tuple[float, ...] = ()
    vocabulary_size: int = 0
    """Tokens, padding (0) and unknown (1) included."""

    def identity(self) -> dict[str, str]:
        described = self.model_dump_json(exclude={"folder", "source"})
        return {f"the data ({self.name})": hashlib.sha256(described.encode()).hexdigest()}

    @property
    def measure(self) -> str:
        """What it is judged by first: a mean over samples, the more the better, 1 at best."""
        return MEASURES[self.task]

    @property
    def outputs(self) -> str:
        """How many classes, labels or targets it has, in words."""
        one = {"classification": "class", "multilabel": "label", "regression": "target"}[self.task]
        number = len(self.classes)
        return f"{number:,} {one if number == 1 else 'classes' if one == 'class' else f'{one}s'}"

    @property
    def arguments(self) -> dict[str, int]:
        """What a network's constructor may ask for by these names."""
        known = {"num_classes": len(self.classes)}
        match self.kind:
            case "images":
                channels, height, width = self.shape
                known |= {"in_channels": channels, "image_size": height, "image_height": height, "image_width": width}
            case "tokens":
                known |= {"vocab_size": self.vocabulary_size, "padding_index": PADDING, "max_length": self.shape[0]}
            case "numbers":
                known |= {"in_features": math.prod(self.shape), "in_channels": self.shape[0]}
        return known


class NetworkRef(Ref):
    """A network as it was before training: how to build it and the weights it began with."""

    reference: str
    """A built-in name, ``file.py:Class`` or ``package.module:Class``."""
    arguments: dict[str, object]
    weights: FileRef
    parameters: int
    freeze: tuple[str, ...] = ()
    """Patterns of parameters that stay as they are, as they were asked for."""
    frozen: tuple[str, ...] = ()
    """Names of the parameters that do."""

    def identity(self) -> dict[str, str]:
        return {"the first weights": self.weights.sha256}


class InspectionRef(Ref):
    """What an inspection of a data set found."""

    report: FileRef
    """All of it as JSON."""
    picture: FileRef
    """Samples of each class."""
    leakage: float
    """Share of test samples that are in training or validation, equal or nearly so."""
    suspects: int
    """Training samples with a doubtful label."""

    def identity(self) -> dict[str, str]:
        return {"the inspection": self.report.sha256}


class CheckRef(Ref):
    """What an examination of a network found."""

    report: FileRef
    """All verdicts as JSON."""
    passed: int
    warned: int
    seconds: float

    def identity(self) -> dict[str, str]:
        return {}


class FitRef(Ref):
    """A trained network."""

    network: NetworkRef
    weights: FileRef
    """Weights of the best epoch (safetensors)."""
    checkpoint: FileRef
    """State after the last epoch."""
    device: str
    epochs: int
    """Epochs that were run."""
    best_epoch: int
    """Counted from 1."""
    measure: str = "accuracy"
    validation_score: float
    """By that measure."""
    validation_loss: float
    samples_per_second: float
    stopped_early: bool

    def identity(self) -> dict[str, str]:
        return {"the trained weights": self.weights.sha256, "the device": self.device}


class EvaluationRef(Ref):
    """How good a trained network is on the test split."""

    measure: str = "accuracy"
    """What is told first: ``accuracy``, ``label_accuracy`` or ``r2``."""
    score: float
    score_low: float
    """Lower end of its 95 % interval."""
    score_high: float
    others: dict[str, float]
    """Further measures by name."""
    loss: float
    """Mean cross-entropy (nats) of classes or labels; mean squared error of standardised targets."""
    samples: int
    temperature: float = 1.0
    """By which logits are divided so that probabilities are as often right as they say; 1 where it was not fitted."""
    report: FileRef
    """All of it as JSON, for each class, label or target."""
    picture: FileRef
    """Truth against answers, drawn."""
    pictures: tuple[FileRef, ...] = ()
    """More of them: calibration, the worst mistakes, what the network looks at."""
    predictions: FileRef | None = None
    """What it gave for each test sample, beside the truth (``.npz``)."""

    def identity(self) -> dict[str, str]:
        return {"the evaluation": self.report.sha256}

    def metrics(self) -> dict[str, float]:
        named = {
            self.measure: self.score,
            f"{self.measure}_low": self.score_low,
            f"{self.measure}_high": self.score_high,
        }
        return {f"test_{name}": value for name, value in {**named, **self.others, "loss": self.loss}.items()}

    def words(self) -> str:
        """The score for people."""
        values = [shown(self.measure, value) for value in (self.score, self.score_low, self.score_high)]
        return "{} (95 %: {} to {}) of {:,}".format(*values, self.samples)


def shown(measure: str, value: float) -> str:
    """A score as people write it: shares in per cent."""
    return f"{value:.4f}" if measure == "r2" else f"{value:.2%}"


class ExportRef(Ref):
    """An ONNX file that was compared with the network it came from."""

    onnx: FileRef
    report: FileRef
    """The comparison as JSON."""
    max_abs_diff: float
    """Largest |ONNX - torch in float64| over all logits, test samples and batch sizes."""
    agreement: float
    """Share of test samples with the same answer."""
    example: FileRef
    """A few inputs and the outputs they give (``.npz``)."""
    smaller: tuple[FileRef, ...] = ()
    """The same in fewer bits, as far as that was asked for and is as good."""

    def identity(self) -> dict[str, str]:
        return {"the ONNX model": self.onnx.sha256, "what it answers to some test samples": self.example.sha256}


class RunRef(Ref):
    """A tracked run. Whoever holds it can add to the run's journal."""

    run_id: str
    name: str
    folder: Path
    """Holds the journal and what the steps make."""
    url: str
    """The run's page in the MLflow UI."""
    fresh: bool = False
    """Uses nothing of earlier runs."""


class StepRef(Ref):
    """How a step went."""

    state: Literal["ran", "resumed", "cached"]
    seconds: float
    """Of this process; a step that was resumed took longer in all."""
    key: str
    why: str
    """What made it run, from where it was resumed, or which run its result is of."""


class PublishedRef(Ref):
    """An exported model in the registry."""

    path: Path
    sha256: str
    max_abs_diff: float
    agreement: float
    model: str
    version: str | None
    """None where it was not to be registered; "pending" where MLflow has not answered yet."""


class PromotionRef(Ref):
    """What became of a model version beside the champion."""

    outcome: Literal["promoted", "kept", "pending"]
    """It is champion now; the champion stays; nobody could tell yet."""
    reason: str
    """In words."""
    champion: str | None
    """The version that is champion now; None where there is none, or nobody could tell."""
    report: FileRef
    """The comparison as JSON."""


class TrainResult(Ref):
    """What `torchmill train` leaves behind; `--json` prints it."""

    run_id: str
    status: str
    name: str
    folder: Path
    mlflow_url: str
    prefect_url: str
    steps: dict[str, StepRef]
    data: DataRef
    metrics: dict[str, float]
    weights: FileRef
    onnx: PublishedRef
    report: Path
    promotion: PromotionRef | None = None
    """None where it was not to be decided."""


class Comparison(Ref):
    """Something of a run beside the same of its reproduction."""

    what: str
    recorded: str
    again: str
    is_result: bool = True
    """Otherwise it is a circumstance, which explains a difference."""

    @property
    def is_equal(self) -> bool:
        return self.recorded == self.again


class Reproduction(Ref):
    """A recorded run, run again."""

    recorded: str
    """Id of the run that was recorded."""
    again: str
    """Id of the one beside it."""
    comparisons: tuple[Comparison, ...]

    @property
    def is_equal(self) -> bool:
        """Whether all results are equal, down to the weights' digest."""
        return all(one.is_equal for one in self.comparisons if one.is_result)
