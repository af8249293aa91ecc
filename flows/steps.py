"""Steps of the train flow: each calls its component and records what it returns."""

import logging
from dataclasses import replace
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

from prefect.client.schemas.objects import TaskRun
from prefect.states import State
from prefect.tasks import Task, exponential_backoff

from torchmill.components import tracking
from torchmill.components.data.config import DataConfig, data_identity
from torchmill.components.doctor.config import CheckConfig
from torchmill.components.errors import Unreachable, UserError
from torchmill.components.evaluation.comparison.noninferiority import Verdict
from torchmill.components.evaluation.config import EvaluateConfig, PromoteConfig
from torchmill.components.export.config import ExportConfig
from torchmill.components.field_tasks.config import TaskConfig
from torchmill.components.files import write_array, write_text
from torchmill.components.initialization.config import InitializeConfig, ModelConfig
from torchmill.components.processes import import_ahead
from torchmill.components.refs import (
    PENDING,
    TRAINED_ON,
    CheckRef,
    DataRef,
    EvaluationRef,
    ExportRef,
    FileRef,
    FitRef,
    InspectionRef,
    NetworkRef,
    PromotionRef,
)
from torchmill.components.runs.folders import Runs, data_cache
from torchmill.components.tasks import title
from torchmill.components.training.config import TrainConfig
from torchmill.components.wording import count
from torchmill.flows import promotion
from torchmill.flows.cli.console import TrainingDisplay
from torchmill.flows.signals import stop_signals
from torchmill.flows.step import current_config, current_run, current_step, is_scheduled, step

if TYPE_CHECKING:
    from torchmill.components.training.distributed.job import Job
    from torchmill.components.training.progress import EpochResult

logger = logging.getLogger("torchmill")

SAMPLE = 64
"""Training samples that a network is initialised and checked with."""

COLUMNS_SHOWN = 12
"""Columns of a table that a training describes; `torchmill data` describes all."""


def may_come_back(task: Task, task_run: TaskRun | None, state: State) -> bool:
    """Return True to retry later: a source didn't answer, and nobody waits at a terminal."""
    return is_scheduled() and isinstance(state.result(raise_on_failure=False), Unreachable)


@step(retries=3, retry_delay_seconds=exponential_backoff(30), retry_jitter_factor=0.5, retry_condition_fn=may_come_back)
def fetch(config: DataConfig, task: TaskConfig) -> DataRef:
    """Download, prepare and verify the data set, and decide the task."""
    from torchmill.components.data.fetch import arguments, fetch
    from torchmill.components.data.summary import summary
    from torchmill.components.field_tasks.choice import for_task

    run = current_run()
    data = for_task(fetch(config.name, data_cache(), args=arguments(config), fresh=run.fresh), task)
    tracking.log_dataset(run, data)
    for line in summary(data, COLUMNS_SHOWN):
        logger.info("data  %s", line)
    return data


@step("seed", "data.validation_fraction", "data.leakage_limit", "data.allow_leakage")
def inspect(data: DataRef) -> InspectionRef:
    """Look for leaks between splits, suspect labels and imbalanced classes; stop the run if too much leaks.

    Raises:
        UserError: more test samples than the limit are in the training or validation split.
    """
    from torchmill.components.data.inspection.findings import leakage_error
    from torchmill.components.data.inspection.inspect import inspect

    run, config = current_run(), current_config().data
    findings = inspect(data, run.folder)
    sheets = [run.folder / name for name in ("samples.png", "samples.txt") if (run.folder / name).exists()]
    tracking.log_files(run, [run.folder / "inspection.json"])
    tracking.log_files(run, sheets, "pictures")
    tracking.log_metrics(run, {"data_leakage": findings.leakage, "data_suspects": findings.suspect_count})
    for line in findings.lines():
        logger.info("inspect  %s", line)
    if findings.leakage > config.leakage_limit:
        error = leakage_error(data, findings, config.leakage_limit)
        if not config.allow_leakage:
            raise error
        logger.warning("inspect  %s It is allowed by --data.allow_leakage.", error.message)
        tracking.log_tags(run, {"data.leakage_allowed": f"{findings.leakage:.4%}"})
    return InspectionRef(
        report=FileRef.of(run.folder / "inspection.json"),
        picture=FileRef.of(sheets[0]),
        leakage=findings.leakage,
        suspects=findings.suspect_count,
    )


@step("seed")
def initialize(model: ModelConfig, config: InitializeConfig, data: DataRef) -> NetworkRef:
    """Build the network and initialise its weights."""
    from torchmill.components.data.samples import read_sample
    from torchmill.components.evaluation.plots import draw_layers
    from torchmill.components.initialization.build import initialize
    from torchmill.components.initialization.standardized_model import standardized
    from torchmill.components.initialization.statistics import as_table
    from torchmill.components.initialization.weights import save_weights

    run, seed = current_run(), current_config().seed
    sample = None if data.goal else standardized(read_sample(data, SAMPLE, seed), data)
    network, layers = initialize(model, config, data, seed, sample)
    write_text(run.folder / "initialization.md", as_table(layers))
    draw_layers(layers, run.folder / "initialization.png")
    tracking.log_files(run, [run.folder / "initialization.md"])
    tracking.log_files(run, [run.folder / "initialization.png"], "pictures")
    weights = save_weights(network, run.folder / "initial.safetensors")
    parameters = sum(parameter.numel() for parameter in network.parameters())
    tracking.log_files(run, [weights.path], "weights")
    tracking.log_tags(run, {"initial.sha256": weights.sha256})
    tracking.log_params(run, {"parameters": parameters})
    scheme = config.resolved(model).name
    first_weights = "as its constructor made them" if scheme == "none" else f"by {scheme}"
    origin = f"from {model.weights}" if model.weights else first_weights
    logger.info("network  %s: %s parameters, weights %s", model.name, f"{parameters:,}", origin)
    return NetworkRef(
        reference=model.name,
        arguments=model.args,
        weights=weights,
        parameters=parameters,
        freeze=model.freeze,
        frozen=tuple(name for name, parameter in network.named_parameters() if not parameter.requires_grad),
    )


@step("seed")
def check(config: CheckConfig, training: TrainConfig, network: NetworkRef, data: DataRef) -> CheckRef:
    """Check the network before hours are spent on training it."""
    from torchmill.components.data.reading import read_sample
    from torchmill.components.doctor import check as examination
    from torchmill.components.initialization.weights import restore

    run, sample = current_run(), read_sample(data, SAMPLE, current_config().seed)
    report = examination.check_network(restore(network, network.weights, data), sample, data, training, config.level)
    try:
        summary = examination.conclude(report, network.reference, run.folder)
    finally:
        tracking.log_files(run, [run.folder / "check.txt", run.folder / "check.json"])
    for verdict in report.verdicts:
        if verdict.verdict == "warn":
            place = f" in {verdict.layer}" if verdict.layer else ""
            logger.warning("check  %s%s: %s  %s", verdict.check, place, verdict.evidence, verdict.remedy)
    if report.out_of_time:
        logger.warning("check  left out for lack of time: %s", ", ".join(report.out_of_time))
    logger.info("check  %d passed, %s  (%.1f s)", summary.passed, count(summary.warned, "warning"), summary.seconds)
    return summary


@step("device", "seed", "data.validation_fraction")
def fit(config: TrainConfig, network: NetworkRef, data: DataRef) -> FitRef:
    """Train the network; keep its best weights and its last checkpoint."""
    from torchmill.components.data.content import trained_digests
    from torchmill.components.data.samples import training_sizes
    from torchmill.components.evaluation import evaluate
    from torchmill.components.evaluation.plots import draw_curves
    from torchmill.components.export import to_onnx
    from torchmill.components.training.distributed.job import Job
    from torchmill.components.training.distributed.supervise import processes_for
    from torchmill.components.training.optimizers import known_lr
    from torchmill.components.training.precision import resolve_precision

    run = current_run()
    device, config = autotune(config, network, data)
    processes, precision = processes_for(config, device), resolve_precision(config.precision, device)
    if precision == "fp16" and device.type == "cpu":
        logger.warning("fit  a CPU computes in fp16 by detours, up to a hundred times slower: take fp32 or bf16")
    job = Job(
        network=network,
        data=data,
        config=config,
        device=str(device),
        seed=current_config().seed,
        checkpoints=current_step().folder / "checkpoints",
        best=run.folder / "best.safetensors",
    )
    used = {"device": device, "precision": precision, "processes": processes, "compile": config.compile}
    used |= {"lr": known_lr(config), "batch_size": config.batch_size}
    tracking.log_params(run, {f"{name}.used": value for name, value in used.items()})
    trained_on = run.folder / PurePath(TRAINED_ON).name
    write_array(trained_on, trained_digests(data))
    tracking.log_files(run, [trained_on], str(PurePath(TRAINED_ON).parent))
    sizes = training_sizes(data)
    place = f"{device}{f', {precision}' * (precision != 'fp32')}{f', {processes} processes' * (processes > 1)}"
    logger.info("fit  %s samples on %s, %s for validation", f"{sizes[0]:,}", place, f"{sizes[1]:,}")
    for needed in (evaluate.NEEDED, to_onnx.NEEDED):
        import_ahead(needed)
    history = _train(job, processes, sizes[0])
    tracking.log_files(run, sorted(run.folder.glob("profile.*")), "profile")
    draw_curves(history, run.folder / "curves.png")
    tracking.log_files(run, [run.folder / "curves.png"], "pictures")
    tracking.log_files(run, [run.folder / "best.safetensors"], "weights")
    weights = FileRef.of(run.folder / "best.safetensors")
    tracking.log_tags(run, {"weights.sha256": weights.sha256})
    best = next(epoch for epoch in reversed(history) if epoch.is_best)
    tracking.log_metrics(run, {"best_epoch": best.epoch})
    return FitRef(
        network=network,
        weights=weights,
        checkpoint=FileRef.of(job.open_checkpoints().tidy()),
        device=str(device),
        epochs=len(history),
        best_epoch=best.epoch,
        measure=data.measure,
        validation_score=best.validation_score,
        validation_loss=best.validation_loss,
        samples_per_second=sum(epoch.samples_per_second for epoch in history) / len(history),
        stopped_early=len(history) < config.epochs,
    )


def _train(job: "Job", processes: int, samples: int) -> "list[EpochResult]":
    """Train in processes of their own; log each epoch, and stop after a checkpoint if a signal asks for it."""
    from torchmill.components.training.distributed.supervise import train_in_subprocess

    run, history = current_run(), []
    with stop_signals() as stop, TrainingDisplay(job.config.epochs, samples, job.data.measure) as display:

        def resumed(epoch: int, step: int) -> None:
            current_step().resumed_at = f"epoch {epoch}, step {step}"
            logger.info("resuming run %s at %s", run.name, current_step().resumed_at)
            display.first = epoch

        for epoch in train_in_subprocess(job, processes, display.step, resumed, stop):
            history.append(epoch)
            tracking.log_metrics(run, epoch.metrics(), epoch.epoch)
            display.epoch(epoch)
    return history


def autotune(config: TrainConfig, network: NetworkRef, data: DataRef) -> tuple[Any, TrainConfig]:
    """Measure what the settings leave open; return the device, and the settings with the values chosen."""
    from torchmill.components.data.reading import read_training
    from torchmill.components.evaluation.plots import draw_rates
    from torchmill.components.initialization.weights import restore
    from torchmill.components.training.device import available, resolve
    from torchmill.components.training.setup import TrainingSetup
    from torchmill.components.training.tuning.autotune import Autotune
    from torchmill.components.training.tuning.find_lr import cached_lr

    run, name, seed = current_run(), current_config().device, current_config().seed
    device = resolve(name)
    several_devices = name == "auto" and len(available()) > 1
    if config.lr is not None and config.batch_size is not None and config.compile != "auto" and not several_devices:
        return device, config
    folder = current_step().folder
    untrained = restore(network, network.weights, data)
    setup = TrainingSetup(untrained, *read_training(data), data, config, device, seed)
    trials = Autotune(folder, setup)
    device = trials.device(name, config)
    config = config.model_copy(update={"batch_size": trials.batch_size(config, device)})
    config = config.model_copy(update={"compile": "on" if trials.compiles(config, device) else "off"})
    if config.lr is None:
        curve = cached_lr(folder, replace(setup, config=config, device=device))
        draw_rates(curve.rates, curve.losses, curve.lr, run.folder / "lr.png")
        tracking.log_files(run, [run.folder / "lr.png"], "pictures")
        logger.info("lr  %g, a tenth of where the loss is least", curve.lr)
        config = config.model_copy(update={"lr": curve.lr})
    return device, config


@step("seed", "data.validation_fraction")
def evaluate(config: EvaluateConfig, trained: FitRef, data: DataRef) -> EvaluationRef:
    """Score the best weights on the test split; the validation split calibrates their probabilities."""
    from torchmill.components.data.field_samples import read_fields
    from torchmill.components.data.samples import read_test, read_validation
    from torchmill.components.evaluation.evaluate import evaluate
    from torchmill.components.evaluation.field_evaluation import evaluate_fields
    from torchmill.components.initialization.weights import restore
    from torchmill.components.training.device import resolve

    run, network = current_run(), restore(trained.network, trained.weights, data)
    device = resolve(trained.device)
    if data.goal:
        scores = evaluate_fields(network, read_fields(data, "test"), data, device, config.batch_size, run.folder)
    else:
        test, validation = read_test(data), read_validation(data)
        scores = evaluate(network, test, data, device, config.batch_size, run.folder, validation)
    tracking.log_metrics(run, scores.metrics())
    tracking.log_files(run, [picture.path for picture in (scores.picture, *scores.pictures)], "pictures")
    tracking.log_files(run, [file.path for file in (scores.report, scores.predictions) if file])
    logger.info("test  %s %s, %s %.4f", title(scores.measure), scores.words(), data.loss_words, scores.loss)
    return scores


@step()
def export(config: ExportConfig, trained: FitRef, scores: EvaluationRef, data: DataRef) -> ExportRef:
    """Write the ONNX model and compare it with the network.

    Raises:
        UserError: it cannot be exported, or its answers differ from the network's.
    """
    from torchmill.components.data.field_samples import read_field_sample, read_fields
    from torchmill.components.data.samples import read_sample, read_test
    from torchmill.components.export.export import export
    from torchmill.components.export.field_export import export_fields
    from torchmill.components.export.quantize import CALIBRATION
    from torchmill.components.initialization.weights import restore
    from torchmill.components.runs.snapshot import portable_reference

    run, network = current_run(), restore(trained.network, trained.weights, data)
    asked = {config.int8, config.fp16} != {"off"}
    about = {
        "network": portable_reference(trained.network.reference),
        "data": f"{portable_reference(data.name)} sha256:{data.sha256}",
        "weights": f"sha256:{trained.weights.sha256}",
        f"test_{scores.measure}": f"{scores.score:.6f}",
    }
    try:
        if data.goal:
            few = read_field_sample(data, CALIBRATION, seed=0) if asked else None
            model = export_fields(network, data, read_fields(data, "test"), config, about, run.folder, few)
        else:
            test, calibration = read_test(data), read_sample(data, CALIBRATION, seed=0) if asked else None
            model = export(network, data, test, config, about, run.folder, scores.temperature, calibration)
    finally:
        tracking.log_files(run, [path for path in [run.folder / "parity.json"] if path.exists()])
    tracking.log_files(run, [file.path for file in model.files], "onnx")
    tracking.log_tags(run, {"onnx.sha256": model.onnx.sha256})
    tracking.log_metrics(run, {"onnx_max_abs_diff": model.max_abs_diff, "onnx_agreement": model.agreement})
    logger.info(
        "onnx  largest difference %.1e, %.2f %% of the answers agree", model.max_abs_diff, 100 * model.agreement
    )
    return model


def _is_registered(version: str, name: str, *_: object) -> bool:
    try:
        return version == PENDING or tracking.is_registered(Runs.here(), name, version)
    except UserError:  # MLflow is away: the version is as it was, as far as anybody knows
        return True


@step(still_holds=_is_registered)
def register(name: str, model: ExportRef, scores: EvaluationRef, data: DataRef) -> str:
    """Register the ONNX model in the model registry; return its version."""
    score = {f"test_{scores.measure}": f"{scores.score:.6f}"}
    tags = {**score, "onnx.sha256": model.onnx.sha256, "data.sha256": data.sha256}
    tags["data.identity"] = data_identity(data.name)
    version = tracking.register(current_run(), model, name, tags)
    if version is None:
        return PENDING
    logger.info("registered  %s version %s", name, version)
    return version


@step(once=False)
def promote(config: PromoteConfig, name: str, version: str, model: ExportRef, data: DataRef) -> PromotionRef:
    """Compare the new version with the champion; if it is as good, make it the champion.

    Each run decides anew, since the champion may have changed.
    """
    run = current_run()
    try:
        verdict, champion = promotion.decide(config, name, version, model, data, run)
    except UserError as error:  # the model is trained and registered: no reason to fail
        verdict, champion = Verdict("pending", str(error)), None
        tracking.log_tags(run, verdict.tags())
    report = run.folder / "promotion.json"
    write_text(
        report, verdict.as_json(model=name, version=version, run=run.run_id, champion=champion, data=data.sha256)
    )
    tracking.log_files(run, [report])
    logger.info("promote  %s", promotion.describe(name, version, verdict, champion))
    return PromotionRef(outcome=verdict.outcome, reason=verdict.reason, champion=champion, report=FileRef.of(report))
