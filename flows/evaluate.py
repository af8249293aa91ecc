"""`torchmill evaluate`: score a run's network again, or an ONNX model, on the same or on another data set."""

from pathlib import Path

from torchmill.components.data.config import DataConfig
from torchmill.components.refs import EvaluationRef
from torchmill.flows.recorded import recorded_config, score_again, score_onnx
from torchmill.flows.step import flow


@flow(name="evaluate", description=__doc__)
def evaluate(subject: str, data: DataConfig | None = None) -> EvaluationRef:
    """Take a run's weights, or an ONNX model, and score them on a test split.

    Args:
        subject: id of a run in MLflow, the beginning of it, or its name; ``last``; or an ``.onnx`` file.
        data: another data set than the run's, of the same shape and classes; an ONNX model needs one.

    Raises:
        UserError: there is no such run or file, or the data doesn't fit.
    """
    if subject.endswith(".onnx"):
        return score_onnx(Path(subject), data)
    recipe = recorded_config(subject)
    return score_again(subject, recipe, data)
