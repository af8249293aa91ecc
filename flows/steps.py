"""The steps of the flows: each calls its component and has what came back recorded."""

import contextlib
import logging
import re
from collections.abc import Generator
from pathlib import Path

from prefect.artifacts import create_markdown_artifact
from prefect.client.schemas.objects import TaskRun
from prefect.runtime import flow_run
from prefect.states import State
from prefect.tasks import Task, exponential_backoff

from components import tracking
from components.config import (
    DataConfig,
    EvaluateConfig,
    ExportConfig,
    InitializeConfig,
    ModelConfig,
    RunConfig,
    TrainConfig,
)
from components.errors import Unreachable, UserError
from components.places import Runs, data_cache
from components.refs import DataRef, EvaluationRef, ExportRef, FitRef, NetworkRef, PublishedRef, RunRef, TrainResult
from flows import prefect_server
from flows.console import TrainingDisplay
from flows.story import is_scheduled, log_to_prefect, step

# Components that need torch are imported where they are used: the flow must be there quickly for whoever
# only wants to schedule it.

logger = logging.getLogger("torchmill")


@contextlib.contextmanager
def tracked(config: RunConfig) -> Generator[RunRef]:
    """Open the run in MLflow, link it with the flow run, and close it with how it ended, whatever happens."""
    log_to_prefect()
    runs = Runs.here().ready()
    name = flow_run.name
    folder = _new_folder(runs, f"{re.sub(r'[^A-Za-z0-9.-]+', '-', name)}-{str(flow_run.id)[-8:]}")
    run = tracking.open_run(
        runs,
        folder,
        experiment=config.data.name,
        name=name,
        params=config.flat(),
        tags={"prefect.flow_run": flow_run_url(), **tracking.circumstances()},
        ui=prefect_server.ui_address(runs, "mlflow"),
    )
    diff = tracking.write_git_diff(folder)
    if diff:
        tracking.log_files(run, [diff])
    logger.info("%s  %s on %s  (seed %d)", name, config.model.name, config.data.name, config.seed)
    status: tracking.Status = "FAILED"
    try:
        yield run
        tracking.settle(run)
        status = "FINISHED"
    except Exception as error:
        tracking.log_tags(run, {"error": f"{type(error).__name__}: {error}"[:4000]})
        raise
    except BaseException:  # Ctrl-C, SIGTERM, a cancellation in the Prefect UI
        status = "KILLED"
        raise
    finally:
        tracking.end_run(run, status)


def _new_folder(runs: Runs, name: str) -> Path:
    """Make the run's own folder; a flow run that is retried in the Prefect UI gets another one."""
    for folder in (runs.work / f"{name}{again}" for again in ("", *(f"-again-{number}" for number in range(1, 1000)))):
        with contextlib.suppress(FileExistsError):
            folder.mkdir()
            return folder
    raise UserError(f"{runs.work / name} has been retried too often.", "Start the training anew.")


def flow_run_url() -> str:
    """The page of the flow run in the Prefect UI."""
    return f"{prefect_server.prefect_ui(Runs.here())}/runs/flow-run/{flow_run.id}"


def may_come_back(task: Task, task_run: TaskRun | None, state: State) -> bool:
    """Tell whether to try again later: a source did not answer, and nobody waits in front of the terminal."""
    return is_scheduled() and isinstance(state.result(raise_on_failure=False), Unreachable)


@step(retries=3, retry_delay_seconds=exponential_backoff(30), retry_jitter_factor=0.5, retry_condition_fn=may_come_back)
def fetch(config: DataConfig, run: RunRef) -> DataRef:
    """Have the data set on disk, prepared and verified."""
    from components.data.fetch import fetch

    data = fetch(config.name, data_cache())
    tracking.log_dataset(run, data)
    logger.info("data  %s: %s training and %s test images, sha256 %s…", *_sizes(data), data.sha256[:12])
    return data


def _sizes(data: DataRef) -> tuple[str, str, str]:
    return data.name, f"{data.train_size:,}", f"{data.test_size:,}"


@step()
def initialize(model: ModelConfig, config: InitializeConfig, seed: int, data: DataRef, run: RunRef) -> NetworkRef:
    """Build the network and give it its first weights."""
    from components.initialize import initialize, save_weights

    network = initialize(model.name, model.args, config.name, data, seed)
    weights = save_weights(network, run.folder / "initial.safetensors")
    parameters = sum(parameter.numel() for parameter in network.parameters())
    tracking.log_files(run, [weights.path], "weights")
    tracking.log_params(run, {"parameters": parameters})
    logger.info("network  %s: %s parameters, weights by %s", model.name, f"{parameters:,}", config.name)
    return NetworkRef(reference=model.name, arguments=model.args, weights=weights, parameters=parameters)


@step()
def fit(
    config: TrainConfig, split: DataConfig, device: str, seed: int, network: NetworkRef, data: DataRef, run: RunRef
) -> FitRef:
    """Train the network, and keep its best and its last state."""
    from components.data.batches import read_training
    from components.device import resolve
    from components.evaluation.pictures import draw_curves
    from components.initialize import restore
    from components.training.fit import Files, fit

    chosen = resolve(device)
    training, validation = read_training(data, split.validation_fraction, seed)
    files = Files(run.folder)
    tracking.log_params(run, {"device.used": chosen})
    logger.info("fit  %s images on %s, %s for validation", f"{len(training):,}", chosen, f"{len(validation):,}")
    history = []
    with TrainingDisplay(config.epochs, len(training)) as display:
        untrained = restore(network, network.weights, data)
        for epoch in fit(untrained, training, validation, data, config, chosen, seed, files, display.step):
            history.append(epoch)
            tracking.log_metrics(run, epoch.metrics(), epoch.epoch)
            display.epoch(epoch)
    draw_curves(history, run.folder / "curves.png")
    tracking.log_files(run, [run.folder / "curves.png"], "pictures")
    tracking.log_files(run, [files.best], "weights")
    best = next(epoch for epoch in reversed(history) if epoch.is_best)
    tracking.log_metrics(run, {"best_epoch": best.epoch})
    return FitRef(
        network=network,
        weights=files.best_ref(),
        checkpoint=files.last_ref(),
        device=str(chosen),
        epochs=len(history),
        best_epoch=best.epoch,
        validation_accuracy=best.validation_accuracy,
        validation_loss=best.validation_loss,
        images_per_second=sum(epoch.images_per_second for epoch in history) / len(history),
        stopped_early=len(history) < config.epochs,
    )


@step()
def evaluate(config: EvaluateConfig, trained: FitRef, data: DataRef, run: RunRef) -> EvaluationRef:
    """Score the best weights on the test split."""
    from components.data.batches import read_test
    from components.device import resolve
    from components.evaluation.evaluate import evaluate
    from components.initialize import restore

    network = restore(trained.network, trained.weights, data)
    scores = evaluate(network, read_test(data), data, resolve(trained.device), config.batch_size, run.folder)
    tracking.log_metrics(run, scores.metrics())
    tracking.log_files(run, [scores.picture.path], "pictures")
    tracking.log_files(run, [scores.report.path])
    logger.info("test  accuracy %s, loss %.4f", scores.words(), scores.loss)
    return scores


@step()
def export(config: ExportConfig, trained: FitRef, scores: EvaluationRef, data: DataRef, run: RunRef) -> ExportRef:
    """Write the ONNX model, and let it pass only if it gives the network's answers."""
    from components.data.batches import read_test
    from components.export.export import export
    from components.initialize import restore

    network = restore(trained.network, trained.weights, data)
    about = {
        "run_id": run.run_id,
        "network": trained.network.reference,
        "data": f"{data.name} sha256:{data.sha256}",
        "weights": f"sha256:{trained.weights.sha256}",
        "test_accuracy": f"{scores.accuracy:.6f}",
    }
    try:
        model = export(network, data, read_test(data), config, about, run.folder)
    finally:
        tracking.log_files(run, [path for path in [run.folder / "parity.json"] if path.exists()])
    tracking.log_files(run, [model.onnx.path, model.example.path], "onnx")
    tracking.log_metrics(run, {"onnx_max_abs_diff": model.max_abs_diff, "onnx_agreement": model.agreement})
    logger.info(
        "onnx  largest difference %.1e, %.2f %% of the answers agree", model.max_abs_diff, 100 * model.agreement
    )
    return model


@step()
def register(name: str, model: ExportRef, scores: EvaluationRef, data: DataRef, run: RunRef) -> str:
    """Make the ONNX model a version in the model registry; gives the version."""
    tags = {"test_accuracy": f"{scores.accuracy:.6f}", "onnx.sha256": model.onnx.sha256, "data.sha256": data.sha256}
    version = tracking.register(run, model, name, tags)
    logger.info("registered  %s version %s", name, version)
    return version


def conclude(
    config: RunConfig,
    trained: FitRef,
    scores: EvaluationRef,
    model: ExportRef,
    data: DataRef,
    version: str,
    run: RunRef,
) -> TrainResult:
    """Write the report, show it in both UIs, and give the result."""
    from components.evaluation.report import write_report

    done = tracking.steps(run)
    report = write_report(config, trained, scores, model, data, version, done, run)
    flow_url = flow_run_url()
    text = report.read_text(encoding="utf-8")
    tracking.log_tags(run, {"mlflow.note.content": f"{text}\n[Flow run in Prefect]({flow_url})"})
    tracking.log_files(run, [report])
    create_markdown_artifact(
        f"{text}\n[Run in MLflow]({run.url})", key="train-report", description=f"{run.name} in words"
    )
    return TrainResult(
        run_id=run.run_id,
        status="FINISHED",
        name=run.name,
        folder=run.folder,
        mlflow_url=run.url,
        prefect_url=flow_url,
        steps=done,
        metrics={
            **scores.metrics(),
            "validation_accuracy": trained.validation_accuracy,
            "images_per_second": trained.images_per_second,
        },
        weights=trained.weights,
        onnx=PublishedRef(
            path=model.onnx.path,
            sha256=model.onnx.sha256,
            max_abs_diff=model.max_abs_diff,
            agreement=model.agreement,
            model=config.registered_name,
            version=version,
        ),
        report=report,
    )
