"""Answer inputs with a model file or a registered model, and tell its run what the inputs were like."""

import logging
from pathlib import Path

from torchmill.components import tracking
from torchmill.components.errors import UserError
from torchmill.components.prediction.predict import Predictions, predict
from torchmill.components.runs.folders import Runs
from torchmill.components.tracking.champions import ModelVersion, find_version

logger = logging.getLogger("torchmill")

NOTE_SECONDS = 30.0  # for MLflow to take the note on drift


def answer(model: str, inputs: list[Path], output: Path, probabilities: bool = True) -> Predictions:
    """Answer all inputs; where the model has a run, that gets the note on drift."""
    runs = Runs.here()
    file, version = _meant(runs, model)
    done = predict(file, inputs, output, probabilities=probabilities)
    failed = f", {done.unreadable:,} could not be read" if done.unreadable else ""
    logger.info("predict  %s answered by %s%s: %s", f"{done.answered:,}", version or file, failed, done.output)
    if done.likeness:
        logger.log(logging.WARNING if done.is_far else logging.INFO, "predict  inputs: %s", done.likeness)
    if version and version.run_id and not tracking.attach_file(runs, version.run_id, done.drift, "drift", NOTE_SECONDS):
        logger.info("predict  MLflow did not take %s within %.0f s", done.drift, NOTE_SECONDS)
    return done


def _meant(runs: Runs, model: str) -> tuple[Path, ModelVersion | None]:
    path = Path(model).expanduser()
    if path.exists() or path.suffix == ".onnx":
        return path, None
    try:
        version = find_version(tracking.versions(runs), model)
    except UserError as error:
        raise UserError(f"{error.message} Nor is there a file of that name.", error.remedy) from None
    return tracking.onnx_file(runs, version), version
