"""The flow of using a model: answer what lies in a folder, a table or a text, and write a row for each."""

from pathlib import Path

from torchmill.flows import prediction
from torchmill.flows.step import flow, log_to_prefect


@flow(name="predict", description=__doc__)
def predict(model: str, inputs: list[str], output: str, probabilities: bool = True) -> str:
    """Answer all inputs, write a row for each, and note whether they are like the training data.

    Args:
        model: an ONNX file, or what the registry knows: NAME, NAME@champion, NAME@7, champion. Which version that is
            is looked up in each run.
        inputs: image files, folders, tables or texts.
        output: .csv, .jsonl or .parquet, which is written over.
        probabilities: of each class, too.

    Returns:
        The output's path.

    Raises:
        UserError: something that the user can mend is wrong; says what, where and how.
    """
    log_to_prefect()
    return str(prediction.answer(model, [Path(place) for place in inputs], Path(output), probabilities).output)
