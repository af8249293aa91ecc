"""`torchmill predict`: answer folders, tables and texts with an exported model, and note drift on its run."""

import logging
from pathlib import Path

from torchmill.components import tracking
from torchmill.components.errors import UserError
from torchmill.components.prediction.predict import Predictions
from torchmill.components.prediction.predict import predict as predict_inputs
from torchmill.components.prediction.predict_fields import FieldPredictions, is_of_fields, predict_fields
from torchmill.components.runs.folders import Runs
from torchmill.components.tracking.champions import ModelVersion, find_version
from torchmill.flows.step import check_variables, flow, log_to_prefect

logger = logging.getLogger("torchmill")

USUAL_OUTPUT = Path("predictions.csv")

NOTE_SECONDS = 30.0
"""Time for MLflow to take the note on drift."""


@flow(name="predict", description=__doc__)
def predict(model: str, inputs: list[str], output: str, probabilities: bool = True) -> str:
    """Write a row for each input, and note whether the inputs are like the training data.

    Args:
        model: an ONNX file, or a registered model: NAME, NAME@champion, NAME@7, champion. Each run looks the version
            up anew.
        inputs: image files, folders, tables, texts, sounds, or file.py:function.
        output: a .csv, .jsonl or .parquet file, which is overwritten; .npz or .jsonl of a task over named fields.
        probabilities: write the probability of each class, too.

    Returns:
        Path of the output.

    Raises:
        UserError: something that the user can fix is wrong. The message says what, where and how.
    """
    log_to_prefect()
    check_variables()
    return str(answer(model, [Path(place) for place in inputs], Path(output), probabilities).output)


def answer(model: str, inputs: list[Path], output: Path, probabilities: bool = True) -> Predictions | FieldPredictions:
    """Answer all inputs; attach the note on drift to the model's run, if it has one."""
    runs = Runs.here()
    file, version = _find_model(runs, model)
    if is_of_fields(file):
        answers = predict_fields(file, inputs, None if output == USUAL_OUTPUT else output)
        failed = f", {answers.unreadable:,} could not be read" if answers.unreadable else ""
        masks = f", masks in {answers.masks}" if answers.masks else ""
        by = version or file
        logger.info("predict  %s answered by %s%s: %s%s", f"{answers.answered:,}", by, failed, answers.output, masks)
        _note_drift(runs, version, answers.likeness.words, answers.likeness.is_far, answers.drift)
        return answers
    predictions = predict_inputs(file, inputs, output, probabilities=probabilities)
    failed = f", {predictions.unreadable:,} could not be read" if predictions.unreadable else ""
    logger.info(
        "predict  %s answered by %s%s: %s", f"{predictions.answered:,}", version or file, failed, predictions.output
    )
    _note_drift(runs, version, predictions.likeness, predictions.is_far, predictions.drift)
    return predictions


def _note_drift(runs: Runs, version: ModelVersion | None, words: str, is_far: bool, note: Path) -> None:
    if words:
        logger.log(logging.WARNING if is_far else logging.INFO, "predict  inputs: %s", words)
    if version and version.run_id and not tracking.attach_file(runs, version.run_id, note, "drift", NOTE_SECONDS):
        logger.info("predict  MLflow did not take %s within %.0f s", note, NOTE_SECONDS)


def _find_model(runs: Runs, model: str) -> tuple[Path, ModelVersion | None]:
    path = Path(model).expanduser()
    if path.exists() or path.suffix == ".onnx":
        return path, None
    try:
        version = find_version(tracking.versions(runs), model)
    except UserError as error:
        raise UserError(f"{error.message} There is no file of that name either.", error.remedy) from None
    return tracking.onnx_file(runs, version), version
