"""`torchmill evaluate`: score a run's network or an ONNX model, on its own test split or on other data."""

from pathlib import Path

from torchmill.components.data.config import DataConfig
from torchmill.components.refs import EvaluationRef
from torchmill.flows.recorded import recorded_config, score_again, score_onnx
from torchmill.flows.step import flow


@flow(name="evaluate", description=__doc__)
def evaluate(subject: str, data: DataConfig | None = None, trust: bool = False) -> EvaluationRef:
    """Score a run's weights, or an ONNX model, on a test split.

    Args:
        subject: id of a run in MLflow, the beginning of it, its name, or ``last``; or an ``.onnx`` file.
        data: another data set of the same shape and classes; None for the run's own. An ONNX model needs one.
        trust: run source code that a server has recorded without asking.

    Raises:
        UserError: there is no such run or file, or the data doesn't fit.
    """
    if subject.endswith(".onnx"):
        return score_onnx(Path(subject), data)
    return score_again(subject, recorded_config(subject, trust), data)
