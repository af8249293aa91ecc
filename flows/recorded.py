"""Recorded runs: their configuration, new scores, and the comparison with a reproduction."""

import logging
from pathlib import Path
from typing import TYPE_CHECKING

from torchmill.components import tracking
from torchmill.components.config import RunConfig
from torchmill.components.data.config import DataConfig
from torchmill.components.errors import UserError
from torchmill.components.evaluation.config import EvaluateConfig
from torchmill.components.refs import DataRef, EvaluationRef, FileRef, NetworkRef, TrainResult
from torchmill.components.runs.folders import Runs, below, data_cache
from torchmill.components.runs.reproduction import RecordedRun, Reproduction, comparisons
from torchmill.flows.recipes import fetch_recipe
from torchmill.flows.step import log_to_prefect

if TYPE_CHECKING:
    import numpy as np

logger = logging.getLogger("torchmill")


def recorded_config(run: str, trust: bool) -> RunConfig:
    """Return the configuration of a recorded run; its network is the source that was recorded.

    Args:
        trust: run source code that a server has recorded without asking.
    """
    log_to_prefect()
    runs = Runs.here().ready()
    recorded = tracking.find_run(runs, run)
    config = fetch_recipe(runs, recorded, trust)
    logger.info("run %s (%s): %s on %s", recorded.name, recorded.run_id, config.model.name, config.data.name)
    return config.model_copy(update={"name": f"{recorded.name} again"})


def score_again(run: str, config: RunConfig, other: DataConfig | None) -> EvaluationRef:
    """Score the weights of a recorded run on the test split of its own data set, or of another one."""
    from torchmill.components.data.content import recorded_digests
    from torchmill.components.data.fetch import arguments, fetch
    from torchmill.components.data.field_samples import read_fields
    from torchmill.components.data.samples import read_validation
    from torchmill.components.evaluation.evaluate import evaluate
    from torchmill.components.evaluation.field_evaluation import evaluate_fields
    from torchmill.components.evaluation.other_data import as_trained, read_as_trained
    from torchmill.components.field_tasks.choice import for_other_data, for_task
    from torchmill.components.initialization.weights import restore
    from torchmill.components.training.device import resolve

    runs = Runs.here()
    recorded = tracking.find_run(runs, run)
    trained = for_task(fetch(config.data.name, data_cache(), args=arguments(config.data)), config.task)
    data = fetch(other.name, data_cache(), args=arguments(other)) if other else trained
    folder = evaluation_folder(runs, recorded.run_id, data)
    weights = FileRef.of(tracking.fetch_file(runs, recorded, "weights/best.safetensors", folder))
    network = NetworkRef(reference=config.model.name, arguments=config.model.args, weights=weights, parameters=0)
    trained_on = tracking.trained_on_file(runs, recorded.run_id)
    digests = recorded_digests(trained_on) if trained_on else None
    _warn_of_known_samples(recorded, data, digests)
    if trained.goal:
        data = for_other_data(data, trained)
        size, device = config.evaluate.batch_size, resolve(config.device)
        test = read_fields(data, "test")
        scores = evaluate_fields(restore(network, weights, trained), test, data, device, size, folder)
        logger.info("test  %s on %s, in %s", scores.words(), data.name, folder)
        return scores
    validation = None
    if digests is not None or trained.validation_size:
        validation = read_validation(trained.with_split(config.data.validation_fraction, config.seed))
    else:
        logger.warning("test  not calibrated: run %s is of a version that cut validation otherwise", recorded.name)
    scores = evaluate(
        restore(network, weights, trained),
        read_as_trained(data, trained),
        as_trained(data, trained),
        resolve(config.device),
        config.evaluate.batch_size,
        folder,
        validation,
    )
    logger.info("test  %s on %s, in %s", scores.words(), data.name, folder)
    return scores


def _warn_of_known_samples(run: RecordedRun, data: DataRef, trained_on: "np.ndarray | None") -> None:
    """Warn if a test split has samples that a run was trained on, or may have some."""
    from torchmill.components.data.content import count_known

    if trained_on is None:
        if run.tags.get("data.sha256") not in (None, data.sha256):
            message = "test  the data is another than that of run %s, which may have been trained on these test samples"
            logger.warning(message, run.name)
    elif number := count_known(data, trained_on):
        message = "test  run %s was trained on %s of the %s test samples: the score flatters"
        logger.warning(message, run.name, f"{number:,}", f"{data.test_size:,}")


def score_onnx(model: Path, config: DataConfig | None) -> EvaluationRef:
    """Score an ONNX model on a data set's test split."""
    from torchmill.components.data.fetch import arguments, fetch
    from torchmill.components.evaluation.other_data import evaluate_onnx

    log_to_prefect()
    if not model.is_file():
        raise UserError(f"There is no file {model}.")
    if config is None:
        raise UserError(f"{model.name} needs data to be scored on.", "Add --data NAME.")
    data = fetch(config.name, data_cache(), args=arguments(config))
    folder = evaluation_folder(Runs.here().ready(), FileRef.of(model).sha256, data)
    scores = evaluate_onnx(model, data, folder, EvaluateConfig().batch_size)
    logger.info("test  %s on %s, in %s", scores.words(), data.name, folder)
    return scores


def evaluation_folder(runs: Runs, subject: str, data: DataRef) -> Path:
    """Create and return the folder of an evaluation that belongs to no run."""
    folder = below(runs.work / "evaluations", f"{subject[:12]}-{data.sha256[:12]}")
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def compare(run: str, again: TrainResult) -> Reproduction:
    """Compare the records of a run with those of its reproduction."""
    runs = Runs.here()
    first, second = tracking.find_run(runs, run), tracking.find_run(runs, again.run_id)
    tracking.tag_run(runs, second.run_id, {"torchmill.reproduces": first.run_id})
    return Reproduction(recorded=first.run_id, again=second.run_id, comparisons=comparisons(first, second))
