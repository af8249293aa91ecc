"""Protocol of tasks whose samples have one input and labels, and the values that such tasks return."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import numpy as np
    from onnx import ModelProto
    from torch import Tensor

    from torchmill.components.metrics.intervals import Interval
    from torchmill.components.metrics.paired import Pairing
    from torchmill.components.metrics.predictions import Predictions

Statistics = Mapping[str, "np.ndarray"]
"""A row for each sample, (N, …), by name."""
Labels = dict[str, "np.ndarray"]
"""Labels by split, (N,) or (N, K)."""


@dataclass(frozen=True)
class Scores:
    """Measures of the answers to a test split."""

    score: float
    """Main measure."""
    low: float
    high: float
    """Ends of its 95 % interval."""
    others: dict[str, float]
    """Further measures by name."""
    loss: float
    """Plain loss, a mean over samples."""
    parts: dict[str, Any]
    """Entries of ``evaluation.json``: intervals, and details of each class, label or target."""
    pictures: dict[str, Callable[[Path], None]]
    """Functions that draw, by file name; truth against answers comes first."""


@dataclass(frozen=True)
class Mistake:
    """A test sample with a wrong answer."""

    sample: int
    """Row in the test split, from 0."""
    output: int
    """Class that was answered, or label or target in question."""
    truth: str
    answer: str
    confidence: float | None
    """Probability that the network gives its answer; None of numbers."""


class LabelTask(Protocol):
    """Everything in which tasks of labels differ. A task is a plain class with these members in a file of this folder.

    ``outputs`` come from a network: (N, K), a column for each class, label or target. ``truth`` are labels as the
    data set stores them; ``labels`` are the same as tensors.
    """

    name: str
    """Name of the file, which the records hold."""

    singular: str
    """An output in words: class, label, target."""
    plural: str
    output_words: str
    """Outputs of a network in words: ``a logit for each class``."""
    mistakes_title: str
    """Heading of the worst answers."""
    mistakes_note: str
    main_measure: str
    """Measure that comes first: a mean over samples, 1 at best."""
    is_share: bool
    """True if people read the main measure in per cent."""

    loss_words: str
    """Plain loss in words."""
    activation: str
    """Function that the losses apply to the outputs: softmax, sigmoid or identity."""
    counts_right: bool
    """True if ``score_sum`` counts samples."""
    is_exclusive: bool
    """True if each sample has exactly one class, an int64 label (N,)."""
    has_temperature: bool
    """True if ``fit_temperature`` may return another temperature than 1."""

    onnx_output: str
    """Name of the network's own output in the ONNX graph."""
    has_probabilities: bool
    """True if the ONNX model also has probabilities and labels, and a temperature in its metadata."""

    def describe_data(self, outputs: str) -> str:
        """Return the end of a log line about the data, for example ``, yes or no for 3 labels``."""
        ...

    def recognizes(self, labels: "np.ndarray") -> bool:
        """Return whether training labels are meant for this task when nobody says for which.

        No two tasks recognize the same labels: a task for which only the user can say so returns False.
        """
        ...

    def doubts(self, labels: "np.ndarray") -> str:
        """Return why recognized labels may be meant for another task; empty if nothing speaks for that."""
        ...

    def read_labels(self, labels: Labels, place: str, names: tuple[str, ...]) -> tuple[Labels, tuple[str, ...]]:
        """Return labels as they are stored, and the names of the outputs.

        Args:
            place: file or function, for errors.
            names: names of the outputs; empty if nobody gave them.

        Raises:
            UserError: the labels do not fit.
        """
        ...

    def faults(self, labels: "np.ndarray", samples: int, outputs: int) -> list[str]:
        """Return the faults of stored labels, in words."""
        ...

    def statistics(self, labels: "np.ndarray") -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Return mean and deviation of the targets; empty if a loss takes them in their own units."""
        ...

    def trained_on(
        self, labels: "np.ndarray", statistics: tuple[Sequence[float], Sequence[float]] | None
    ) -> "np.ndarray":
        """Return labels as a loss takes them.

        Args:
            statistics: mean and deviation of the targets; None leaves them in their own units.
        """
        ...

    def counts(self, labels: "np.ndarray", outputs: int) -> "np.ndarray | None":
        """Return the samples of each class or label, int64 (K,); None of numbers."""
        ...

    def plain_loss(self, outputs: "Tensor", labels: "Tensor") -> "Tensor":
        """Return the mean loss that evaluations report, whichever loss was trained with."""
        ...

    def plain_losses(self, outputs: "Tensor", labels: "Tensor") -> "Tensor":
        """Return ``plain_loss`` of each sample, (N,)."""
        ...

    def score_sum(self, outputs: "Tensor", labels: "Tensor") -> "Tensor":
        """Return the main measure of each sample, summed: 1 for a right answer."""
        ...

    def shares(self, labels: "Tensor", outputs: int) -> "Tensor":
        """Return labels that can be mixed: floats, (N, K)."""
        ...

    def class_weights(self, labels: "Tensor", outputs: int) -> "Tensor":
        """Return a balanced weight for each class or label: frequent and rare ones count alike."""
        ...

    def mean_weight(self, weights: "Tensor", labels: "Tensor") -> "Tensor":
        """Return the divisor of weights that a user set: the mean weight of the samples, or 1."""
        ...

    def measure(self, outputs: "np.ndarray", truth: "np.ndarray") -> Statistics:
        """Return statistics of each sample, (N,); the mean of ``main_measure`` is the score."""
        ...

    def summarize(self, statistics: Statistics) -> dict[str, float]:
        """Return measures from the statistics of samples."""
        ...

    def score(self, outputs: "np.ndarray", truth: "np.ndarray") -> float:
        """Return the main measure."""
        ...

    def interval(self, outputs: "np.ndarray", truth: "np.ndarray") -> "Interval":
        """Return the 95 % interval of the main measure."""
        ...

    def fit_temperature(self, outputs: "np.ndarray", truth: "np.ndarray") -> float:
        """Return the best divisor for the logits of unseen samples."""
        ...

    def scores(
        self, outputs: "Tensor", labels: "Tensor", names: Sequence[str], spread: Sequence[float], temperature: float
    ) -> Scores:
        """Return all measures of the answers to a test split.

        Args:
            names: names of the outputs.
            spread: deviation of each target in training; empty if they have none.
        """
        ...

    def wrong(self, outputs: "np.ndarray", truth: "np.ndarray") -> "np.ndarray | None":
        """Return which samples have a wrong answer, bool (N,); None of numbers."""
        ...

    def worst_mistakes(
        self,
        outputs: "np.ndarray",
        truth: "np.ndarray",
        names: Sequence[str],
        spread: Sequence[float],
        temperature: float,
        most: int,
    ) -> list[Mistake]:
        """Return wrong answers of the highest confidence, or the values that are farthest from the truth."""
        ...

    def pair(self, first: "Predictions", second: "Predictions") -> "Pairing":
        """Compare two networks on the same samples."""
        ...

    def answers(self, outputs: "np.ndarray") -> "np.ndarray":
        """Return the meaning of outputs, (N, …): a class, yes or no for each label, or numbers."""
        ...

    def differing(self, outputs: "np.ndarray", reference: "np.ndarray", allowed: float) -> "np.ndarray":
        """Return which samples have another answer than in the reference, bool (N,)."""
        ...

    def undecided(self, reference: "np.ndarray", allowed: float) -> "np.ndarray":
        """Return which samples may get another answer by an allowed difference of the outputs, bool (N,)."""
        ...

    def describe_output(self, outputs: int) -> str:
        """Return the outputs of the ONNX model in words, for its metadata."""
        ...

    def exported(self, outputs: Sequence[str], description: str) -> bool:
        """Return whether an ONNX file that names no task was exported for this one.

        Args:
            outputs: names of the graph's outputs.
            description: ``describe_output`` in the metadata.
        """
        ...

    def postprocessing(self, names: Sequence[str], temperature: float) -> "ModelProto | None":
        """Return a graph from outputs to probabilities and labels; None if there are none."""
        ...

    def probabilities(self, outputs: "np.ndarray", temperature: float) -> "np.ndarray":
        """Return the same probabilities as the ONNX model, float64; numbers stay as they are."""
        ...

    def labels(self, outputs: "np.ndarray", names: Sequence[str]) -> "np.ndarray":
        """Return the same labels as the ONNX model; numbers stay as they are."""
        ...

    def confidence(self, answers: "np.ndarray") -> "np.ndarray":
        """Return how sure each answer is, (N,), from probabilities; empty of numbers."""
        ...

    def answer_words(self, answer: "np.ndarray", names: Sequence[str]) -> str | None:
        """Return one answer, (K,), in words; None of numbers."""
        ...
