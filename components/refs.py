"""The small frozen things that travel between steps: paths, digests, ids."""

import hashlib
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict

from torchmill.components import fields, tasks
from torchmill.components.batches.field_refs import FieldRef, TaskRef
from torchmill.components.reading.rules import USUAL, ReadingRules

Kind = Annotated[str, AfterValidator(fields.checked)]
"""Kind of inputs: the ``NAME`` of a file in components/fields/."""

TaskName = Annotated[str, AfterValidator(tasks.checked)]
"""Name of a file in components/tasks/."""


TargetScale = Literal["linear", "log"]
"""Scale of targets in training: their own, or their logarithm."""


class Ref(BaseModel):
    """A frozen value that travels between steps."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    def identity(self) -> dict[str, str]:
        """Return the digests that decide a later step, by the name of their subject; neither paths nor durations."""
        raise NotImplementedError(type(self).__name__)


class FileRef(Ref):
    """A file, with the digest of its content when the reference was made."""

    path: Path
    sha256: str

    @classmethod
    def of(cls, path: Path) -> "FileRef":
        """Return a reference to a file, and read it to compute its digest.

        Raises:
            OSError: the file cannot be read.
        """
        with path.open("rb") as file:
            return cls(path=path, sha256=hashlib.file_digest(file, "sha256").hexdigest())


SPLIT, USUAL_SPLIT = "data.split", "random"
"""Argument of the user's own data that names how it is cut, which no function takes by this name; and its default."""


class ValidationSplit(Ref):
    """Rule that cuts the validation split from the training file, if the data set has no such split."""

    fraction: float = 0.1
    """Expected share of the samples, above 0 and below 0.9."""
    seed: int = 0
    """Seed of the samples' hashes."""


class DataRef(Ref):
    """A prepared data set: a file of inputs and one of labels per split, in ``folder``."""

    name: str
    """Name in the configuration: ``mnist``, ``image_folder:PATH``, ``file.py:function``."""
    args: dict[str, object] = {}
    """Arguments of the data set's ``load``."""
    folder: Path
    """Folder with ``{train,validation,test}_{inputs,labels}.npy``; ``vocabulary.json`` if the inputs are tokens, and
    ``columns.json`` if they came from a table."""
    sha256: str
    """Digest of these files' digests."""
    digests_sha256: str = ""
    """Digest of the samples' own digests, which decide on splits; empty if an earlier version prepared the data."""
    source: str
    """Origin of the data: a URL, a path or a name."""
    kind: Kind = fields.DEFAULT
    task: TaskName = tasks.DEFAULT
    shape: tuple[int, ...]
    """Shape of one input. Images: channels, height, width; tokens: the longest sequence; numbers: features first."""
    classes: tuple[str, ...]
    """Names of the classes, of the labels (multi-label) or of the targets (regression)."""
    train_size: int
    """Samples in the training file. Without a validation file, the validation split is cut from them."""
    validation_size: int = 0
    """Samples in the data set's own validation split; 0 without one."""
    split: ValidationSplit = ValidationSplit()
    """How the validation split is cut; ignored if the data set has its own. No part of the digest."""
    test_size: int
    mean: tuple[float, ...] = ()
    """Mean per channel or feature of the training inputs, with pixels scaled to 0…1. Empty for tokens."""
    std: tuple[float, ...] = ()
    target_mean: tuple[float, ...] = ()
    """Mean of each training target of a regression, on ``target_scale``."""
    target_std: tuple[float, ...] = ()
    target_scale: TargetScale = "linear"
    """Scale on which targets are learned; answers, measures and the exported model keep their own units."""
    target_spread: tuple[float, ...] = ()
    """Deviation of each training target in its own units; empty if that is ``target_std``."""
    vocabulary_size: int = 0
    """Number of tokens, with padding (0) and unknown (1)."""
    rules: ReadingRules = USUAL
    """Rules for reading files; predictions follow them, too."""
    field_refs: tuple[FieldRef, ...] = ()
    """Named fields; empty if each sample has one input and labels."""
    goal: TaskRef | None = None
    """Task with named fields that a network is trained for; None if ``task`` is trained for."""
    notes: tuple[str, ...] = ()
    """Guesses and omissions of the preparation, in words; no part of the digest."""

    def identity(self) -> dict[str, str]:
        described = self.model_dump_json(exclude={"folder", "source", "split", "notes", "goal", *self.later_fields})
        return {f"the data ({self.name})": hashlib.sha256(described.encode()).hexdigest()}

    @property
    def later_fields(self) -> set[str]:
        """Fields without a value that earlier versions did not have: the identity of their data is as it was."""
        return set() if self.target_scale != "linear" else {"target_scale", "target_spread"}

    @property
    def target_units(self) -> tuple[float, ...]:
        """Deviation of each training target of a regression, in its own units; empty for other tasks."""
        return self.target_spread or self.target_std

    @property
    def is_ordered(self) -> bool:
        """True if the validation split is the end of the training file, since samples follow each other in time."""
        return self.args.get(SPLIT, USUAL_SPLIT) != USUAL_SPLIT

    def with_split(self, fraction: float, seed: int) -> "DataRef":
        """Return the same data with another cut of its validation split.

        Example:
            >>> training, validation = read_training(data.with_split(0.2, seed=0))  # doctest: +SKIP
        """
        return self.model_copy(update={"split": ValidationSplit(fraction=fraction, seed=seed)})

    @property
    def measure(self) -> str:
        """First measure of the task: a mean over samples, at most 1; more is better."""
        return self.goal.measure if self.goal else self.task_object.main_measure

    @property
    def task_object(self) -> tasks.LabelTask:
        """Everything that depends on the task."""
        return tasks.task(self.task)

    @property
    def loss_words(self) -> str:
        """Loss of evaluations in words."""
        return "loss" if self.goal else self.task_object.loss_words

    @property
    def field(self) -> fields.Field:
        """Everything that depends on the kind of inputs."""
        return fields.field(self.kind)

    @property
    def outputs(self) -> str:
        """Number of classes, labels or targets, in words."""
        number = len(self.classes)
        return f"{number:,} {self.task_object.singular if number == 1 else self.task_object.plural}"

    @property
    def arguments(self) -> dict[str, int]:
        """Facts of the data that a network's constructor may take as parameters, by name."""
        return {"num_classes": len(self.classes), **self.field.arguments(self.shape, self.vocabulary_size)}


class NetworkRef(Ref):
    """A network before training: how to build it, and its first weights."""

    reference: str
    """A built-in name, ``file.py:Class`` or ``package.module:Class``."""
    arguments: dict[str, object]
    weights: FileRef
    parameters: int
    freeze: tuple[str, ...] = ()
    """Patterns that name parameters to freeze, as in the configuration."""
    frozen: tuple[str, ...] = ()
    """Names of the parameters that the patterns freeze."""

    def identity(self) -> dict[str, str]:
        return {"the first weights": self.weights.sha256}


class InspectionRef(Ref):
    """The findings of a data set's inspection."""

    report: FileRef
    """All findings as JSON."""
    picture: FileRef
    """Contact sheet with samples of each class."""
    leakage: float
    """Share of test samples that are, or nearly are, in training or validation."""
    suspects: int
    """Number of training samples with a suspect label."""

    def identity(self) -> dict[str, str]:
        return {"the inspection": self.report.sha256}


class CheckRef(Ref):
    """The verdicts of a network's check."""

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
    """Number of epochs that were trained."""
    best_epoch: int
    """Number of the best epoch, from 1."""
    measure: str = "accuracy"
    validation_score: float
    """Score of the best epoch by that measure."""
    validation_loss: float
    samples_per_second: float
    stopped_early: bool

    def identity(self) -> dict[str, str]:
        return {"the trained weights": self.weights.sha256, "the device": self.device}


class EvaluationRef(Ref):
    """How good a trained network is on the test split."""

    measure: str = "accuracy"
    """First measure: ``accuracy``, ``label_accuracy`` or ``r2``."""
    score: float
    score_low: float
    """Lower end of the score's 95 % interval."""
    score_high: float
    others: dict[str, float]
    """Further measures by name."""
    loss: float
    """Mean cross-entropy (nats) of classes or labels; mean squared error of standardised targets."""
    samples: int
    temperature: float = 1.0
    """Divisor of the logits that calibrates the probabilities; 1 if it was not fitted."""
    report: FileRef
    """All of it as JSON, for each class, label or target."""
    picture: FileRef
    """Picture of the answers against the truth."""
    pictures: tuple[FileRef, ...] = ()
    """More pictures: calibration, the worst mistakes, saliency."""
    predictions: FileRef | None = None
    """Answer and truth for each test sample (``.npz``)."""

    def identity(self) -> dict[str, str]:
        return {"the evaluation": self.report.sha256}

    def metrics(self) -> dict[str, float]:
        """Return the scores under MLflow's names, for example ``test_accuracy``."""
        named = {
            self.measure: self.score,
            f"{self.measure}_low": self.score_low,
            f"{self.measure}_high": self.score_high,
        }
        return {f"test_{name}": value for name, value in {**named, **self.others, "loss": self.loss}.items()}

    def words(self) -> str:
        """Return the score and its interval in words."""
        values = [tasks.shown(self.measure, value) for value in (self.score, self.score_low, self.score_high)]
        return "{} (95 %: {} to {}) of {:,}".format(*values, self.samples)


class ExportRef(Ref):
    """An ONNX file that was compared with the network it came from."""

    onnx: FileRef
    report: FileRef
    """Comparison with the network, as JSON."""
    max_abs_diff: float
    """Largest |ONNX - torch in float64| over all logits, test samples and batch sizes."""
    agreement: float
    """Share of test samples with the same answer."""
    example: FileRef
    """A few inputs and their outputs (``.npz``)."""
    bare: FileRef | None = None
    """The network alone, beside the complete model."""
    smaller: tuple[FileRef, ...] = ()
    """Quantized versions that the configuration asked for and that passed their gates."""
    triton: FileRef | None = None
    """Configuration of Triton Inference Server, ``config.pbtxt``."""
    weights: tuple[FileRef, ...] = ()
    """Weights of models above 2 GB, which lie beside them."""

    @property
    def files(self) -> list[FileRef]:
        """All that a deployer may want."""
        return [
            file for file in (self.onnx, self.bare, *self.weights, self.example, self.triton, *self.smaller) if file
        ]

    def identity(self) -> dict[str, str]:
        weights = {f"the model's weights {number}": file.sha256 for number, file in enumerate(self.weights, 1)}
        return {
            "the ONNX model": self.onnx.sha256,
            "what it answers to some test samples": self.example.sha256,
            **weights,
        }


class RunRef(Ref):
    """A tracked run. Its holder can append to the run's journal."""

    run_id: str
    name: str
    folder: Path
    """Folder with the journal and the steps' files."""
    url: str
    """Address of the run's page in the MLflow UI."""
    fresh: bool = False
    """True if the run uses no results of earlier runs."""


class StepRef(Ref):
    """The outcome of a step."""

    state: Literal["ran", "resumed", "cached"]
    seconds: float
    """Time that this process took; a resumed step took longer in all."""
    key: str
    why: str
    """Reason why it ran, epoch at which it was resumed, or run that its result comes from."""


PENDING = "pending"
"""Version of a model that MLflow has not registered yet, since it did not answer."""


TRAINED_ON = "data/trained_on.npy"
"""Artifact of a run with the digests of all samples that it learned from."""


class PublishedRef(Ref):
    """An exported model in the registry."""

    path: Path
    sha256: str
    max_abs_diff: float
    agreement: float
    model: str
    version: str | None
    """Version; None if the run registers no model, "pending" while MLflow does not answer."""


class PromotionRef(Ref):
    """The outcome of a model version's comparison with the champion."""

    outcome: Literal["promoted", "kept", "pending"]
    """``promoted``: it is champion now. ``kept``: the champion stays. ``pending``: MLflow did not answer."""
    reason: str
    """Reason in words."""
    champion: str | None
    """Version that is champion now; None if there is none, or if MLflow did not answer."""
    report: FileRef
    """The comparison as JSON."""


class TrainResult(Ref):
    """The result of `torchmill train`, which `--json` prints."""

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
    """Promotion; None if the run decides none."""
