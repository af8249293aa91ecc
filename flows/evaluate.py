"""`torchmill evaluate`: score a run's network again, or an ONNX model, on the same or on another data set."""

from pathlib import Path

from torchmill.components.config import DataConfig
from torchmill.components.refs import EvaluationRef
from torchmill.flows import steps
from torchmill.flows.story import story


@story(name="evaluate", description=__doc__)
def evaluate(subject: str, data: DataConfig | None = None) -> EvaluationRef:
    """Take a run's weights, or an ONNX model, and score them on a test split.

    Args:
        subject: id of a run in MLflow, the beginning of it, or its name; ``last``; or an ``.onnx`` file.
        data: another data set than the run's, of the same shape and classes; an ONNX model needs one.

    Raises:
        UserError: there is no such run or file, or the data doesn't fit.
    """
    if subject.endswith(".onnx"):
        return steps.score_onnx(Path(subject), data)
    recipe = steps.recipe_of(subject)
    return steps.score_again(subject, recipe, data)
