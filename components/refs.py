"""The small frozen things that travel between steps: paths, digests, ids."""

import hashlib
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict


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
    """A prepared image data set: four ``.npy`` files in ``folder``."""

    name: str
    folder: Path
    """Holds ``{train,test}_{images,labels}.npy``: uint8 NCHW pixels, int64 labels."""
    sha256: str
    """Digest of the digests of the four files."""
    source: str
    """Where the data comes from."""
    classes: tuple[str, ...]
    channels: int
    height: int
    width: int
    train_size: int
    """Samples in the training file, from which the validation split is cut."""
    test_size: int
    mean: tuple[float, ...]
    """Per channel, of the training file's pixels scaled to 0…1."""
    std: tuple[float, ...]

    def identity(self) -> dict[str, str]:
        described = self.model_dump_json(exclude={"folder", "source"})
        return {f"the data ({self.name})": hashlib.sha256(described.encode()).hexdigest()}

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Channels, height, width."""
        return self.channels, self.height, self.width


class NetworkRef(Ref):
    """A network as it was before training: how to build it and the weights it began with."""

    reference: str
    """A built-in name, ``file.py:Class`` or ``package.module:Class``."""
    arguments: dict[str, object]
    weights: FileRef
    parameters: int

    def identity(self) -> dict[str, str]:
        return {"the first weights": self.weights.sha256}


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
    validation_accuracy: float
    validation_loss: float
    images_per_second: float
    stopped_early: bool

    def identity(self) -> dict[str, str]:
        return {"the trained weights": self.weights.sha256, "the device": self.device}


class EvaluationRef(Ref):
    """How good a trained network is on the test split."""

    accuracy: float
    accuracy_low: float
    """Lower end of the 95 % Wilson interval."""
    accuracy_high: float
    macro_f1: float
    """Mean F1 over the classes."""
    loss: float
    """Mean cross-entropy, nats."""
    samples: int
    report: FileRef
    """All of it as JSON: per-class precision, recall, F1; confusion matrix."""
    picture: FileRef
    """The confusion matrix, drawn."""

    def identity(self) -> dict[str, str]:
        return {"the evaluation": self.report.sha256}

    def metrics(self) -> dict[str, float]:
        return {
            "test_accuracy": self.accuracy,
            "test_accuracy_low": self.accuracy_low,
            "test_accuracy_high": self.accuracy_high,
            "test_macro_f1": self.macro_f1,
            "test_loss": self.loss,
        }

    def words(self) -> str:
        """The accuracy for people."""
        return f"{self.accuracy:.2%} (95 %: {self.accuracy_low:.2%} to {self.accuracy_high:.2%}) of {self.samples:,}"


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
    """A few inputs and the logits they give (``.npz``)."""

    def identity(self) -> dict[str, str]:
        return {"the ONNX model": self.onnx.sha256, "its examples": self.example.sha256}


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
