"""The steps of the flows: each calls its component and has what came back recorded."""

import contextlib
import logging
import re
from collections.abc import Generator
from pathlib import Path
from typing import Any
from uuid import UUID

from prefect.artifacts import create_markdown_artifact
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import TaskRun
from prefect.runtime import flow_run
from prefect.settings import PREFECT_API_URL
from prefect.states import State
from prefect.tasks import Task, exponential_backoff

from torchmill.components import claims, tracking
from torchmill.components.claims import Claim
from torchmill.components.comparison import comparisons
from torchmill.components.config import (
    CheckConfig,
    DataConfig,
    EvaluateConfig,
    ExportConfig,
    InitializeConfig,
    ModelConfig,
    PromoteConfig,
    RunConfig,
    TrainConfig,
)
from torchmill.components.errors import Unreachable, UserError
from torchmill.components.evaluation.promotion import Verdict
from torchmill.components.files import write_text
from torchmill.components.ingredients import of_run
from torchmill.components.places import Runs, data_cache
from torchmill.components.recipe import read_recipe, write_recipe
from torchmill.components.refs import (
    PLAIN_LOSSES,
    CheckRef,
    DataRef,
    EvaluationRef,
    ExportRef,
    FileRef,
    FitRef,
    InspectionRef,
    NetworkRef,
    PromotionRef,
    PublishedRef,
    Reproduction,
    RunRef,
    TrainResult,
)
from torchmill.components.results import Results
from torchmill.components.training.launch import started_ahead
from torchmill.flows import interrupted, prefect_server, promotion
from torchmill.flows.console import TrainingDisplay
from torchmill.flows.stopping import stop_signals
from torchmill.flows.story import is_scheduled, log_to_prefect, step, under_way

# Components that need torch are imported where they are used: the flow must be there quickly for whoever
# only wants to schedule it.

logger = logging.getLogger("torchmill")

SAMPLE = 64  # of training, by which a network is initialised and examined

PENDING = "pending"  # the version of a model of which MLflow, which does not answer, will be told later


def claim(config: RunConfig, fresh: bool) -> Claim:
    """Take hold of the run that this is: a new one, an interrupted one that goes on, or one that is done already."""
    log_to_prefect()
    runs = Runs.here().ready()
    api, own = str(PREFECT_API_URL.value()), prefect_server.keeps_its_own_history(runs)
    with contextlib.ExitStack() as held:
        held.enter_context(interrupted.under_watch(runs, str(flow_run.id), "" if own else api))
        for line in interrupted.close(runs, api if own else ""):
            logger.info("%s", line)
        name = flow_run.name
        new = f"{re.sub(r'[^A-Za-z0-9.-]+', '-', name)}-{str(flow_run.id)[-8:]}"
        claimed = claims.claim(runs, of_run(config, tracking.destination(runs)), config, new, name, fresh)
        if claimed.result:
            tracking.cool_down()
            logger.info("nothing changed since run %s: its result stands", claimed.manifest.name)
        else:
            claimed.held.enter_context(held.pop_all())
        return claimed


@contextlib.contextmanager
def tracked(claimed: Claim) -> Generator[RunRef]:
    """Open the run in MLflow, link it with the flow run, and close it with how it ended, whatever happens."""
    runs, config, name, folder = Runs.here(), claimed.manifest.config, claimed.manifest.name, claimed.folder
    if claimed.is_resumed:
        logger.info("resuming run %s", name)
        rename_flow_run(name)
    with claimed.held:
        run = tracking.open_run(
            runs,
            folder,
            experiment=config.data.title,
            name=name,
            params=config.flat(),
            tags={"prefect.flow_run": flow_run_url(), **tracking.circumstances()},
            ui=prefect_server.ui_address(runs, "mlflow"),
            fresh=claimed.manifest.fresh,
        )
        logger.info("%s  %s on %s  (seed %d)", name, config.model.name, config.data.name, config.seed)
        status: tracking.Status = "FAILED"
        try:
            for file, place in write_recipe(config, folder).items():
                tracking.log_files(run, [file], place)
            with started_ahead(config.train):
                yield run
            if not tracking.settle(run):
                logger.warning(
                    "MLflow does not answer. What it has not got is kept in %s; the next run or `torchmill repair` "
                    "sends it.",
                    folder,
                )
            status = "FINISHED"
        except Exception as error:
            tracking.log_error(run, error)
            tracking.log_files(run, write_page(config, run, str(error)))
            raise
        except BaseException:  # Ctrl-C, SIGTERM, a cancellation in the Prefect UI
            status = "KILLED"
            raise
        finally:
            tracking.end_run(run, status)
        claimed.publish()


def write_page(config: RunConfig, run: RunRef, failure: str = "") -> list[Path]:
    """Write the page of a run that was evaluated, also where it fails behind that, as by an export that differs."""
    from torchmill.components.evaluation.page import Record, write_page

    done, results = tracking.steps(run), Results(Runs.here())
    held = {step: kept[0] for step, ref in done.items() if (kept := results.find(step, ref.key))}
    if not {"fetch", "fit", "evaluate"} <= held.keys():
        return []
    record = Record(
        config=config,
        trained=held["fit"],
        scores=held["evaluate"],
        model=held.get("export"),
        data=held["fetch"],
        version=held.get("register"),
        promotion=held.get("promote"),
        steps=done,
        run=run,
        curves=tracking.metrics(run),
        inspection=held["inspect"].report if "inspect" in held else None,
        check=held["check"].report if "check" in held else None,
        failure=failure,
    )
    return [write_page(record)]


def rename_flow_run(name: str) -> None:
    """Give the flow run the name of the run that it goes on with."""
    with get_client(sync_client=True) as client:
        client.update_flow_run(UUID(flow_run.id), name=name)


def flow_run_url() -> str:
    """The page of the flow run in the Prefect UI."""
    return f"{prefect_server.prefect_ui(Runs.here())}/runs/flow-run/{flow_run.id}"


def may_come_back(task: Task, task_run: TaskRun | None, state: State) -> bool:
    """Tell whether to try again later: a source did not answer, and nobody waits in front of the terminal."""
    return is_scheduled() and isinstance(state.result(raise_on_failure=False), Unreachable)


@step(retries=3, retry_delay_seconds=exponential_backoff(30), retry_jitter_factor=0.5, retry_condition_fn=may_come_back)
def fetch(config: DataConfig, run: RunRef) -> DataRef:
    """Have the data set on disk, prepared and verified."""
    from torchmill.components.data.fetch import arguments, fetch

    data = fetch(config.name, data_cache(), args=arguments(config), fresh=run.fresh)
    tracking.log_dataset(run, data)
    sizes = {"training": data.train_size, "validation": data.validation_size, "test": data.test_size}
    told = ", ".join(f"{size:,} {split}" for split, size in sizes.items() if size)
    what = "samples" if data.kind == "numbers" else "texts" if data.kind == "tokens" else "images"
    meant = {"multilabel": f", yes or no for {data.outputs}", "regression": f", regression of {data.outputs}"}
    logger.info("data  %s: %s %s%s, sha256 %s…", data.name, told, what, meant.get(data.task, ""), data.sha256[:12])
    return data


@step()
def inspect(
    data: DataRef, validation_fraction: float, seed: int, leakage_limit: float, allow_leakage: bool, run: RunRef
) -> InspectionRef:
    """Look for what spoils a training or flatters a test: leaks between splits, doubtful labels, lopsided classes."""
    from torchmill.components.data.inspect import inspect, leakage_error

    found = inspect(data, validation_fraction, seed, run.folder)
    sheets = [run.folder / name for name in ("samples.png", "samples.txt") if (run.folder / name).exists()]
    tracking.log_files(run, [run.folder / "inspection.json"])
    tracking.log_files(run, sheets, "pictures")
    tracking.log_metrics(run, {"data_leakage": found.leakage, "data_suspects": found.suspect_count})
    for line in found.lines():
        logger.info("inspect  %s", line)
    if found.leakage > leakage_limit:
        error = leakage_error(data, found, leakage_limit)
        if not allow_leakage:
            raise error
        logger.warning("inspect  %s It is allowed by --data.allow-leakage.", error.message)
        tracking.log_tags(run, {"data.leakage_allowed": f"{found.leakage:.4%}"})
    return InspectionRef(
        report=FileRef.of(run.folder / "inspection.json"),
        picture=FileRef.of(sheets[0]),
        leakage=found.leakage,
        suspects=found.suspect_count,
    )


@step()
def initialize(model: ModelConfig, config: InitializeConfig, seed: int, data: DataRef, run: RunRef) -> NetworkRef:
    """Build the network and give it its first weights."""
    from torchmill.components.data.batches import read_sample
    from torchmill.components.evaluation.pictures import draw_layers
    from torchmill.components.first_weights import as_table
    from torchmill.components.initialize import initialize, save_weights
    from torchmill.components.raw_model import standardized

    sample = standardized(read_sample(data, SAMPLE, seed), data)
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
    origin = f"from {model.weights}" if model.weights else f"by {config.name}"
    logger.info("network  %s: %s parameters, weights %s", model.name, f"{parameters:,}", origin)
    return NetworkRef(
        reference=model.name,
        arguments=model.args,
        weights=weights,
        parameters=parameters,
        freeze=model.freeze,
        frozen=tuple(name for name, parameter in network.named_parameters() if not parameter.requires_grad),
    )


@step()
def check(
    config: CheckConfig, training: TrainConfig, seed: int, network: NetworkRef, data: DataRef, run: RunRef
) -> CheckRef:
    """Examine the network before hours are spent on it."""
    from torchmill.components import examination
    from torchmill.components.data.batches import read_sample
    from torchmill.components.initialize import restore

    sample = read_sample(data, SAMPLE, seed)
    report = examination.look_at(restore(network, network.weights, data), sample, data, training, config.level)
    try:
        found = examination.conclude(report, network.reference, run.folder)
    finally:
        tracking.log_files(run, [run.folder / "check.txt", run.folder / "check.json"])
    for one in report.verdicts:
        if one.verdict == "warn":
            logger.warning(
                "check  %s%s: %s  %s", one.check, f" in {one.layer}" if one.layer else "", one.evidence, one.remedy
            )
    logger.info("check  %d passed, %d warnings  (%.1f s)", found.passed, found.warned, found.seconds)
    return found


@step()
def fit(
    config: TrainConfig, split: DataConfig, device: str, seed: int, network: NetworkRef, data: DataRef, run: RunRef
) -> FitRef:
    """Train the network, and keep its best and its last state."""
    from torchmill.components.data.batches import training_sizes
    from torchmill.components.evaluation import evaluate
    from torchmill.components.evaluation.pictures import draw_curves
    from torchmill.components.export import to_onnx
    from torchmill.components.training.job import Job
    from torchmill.components.training.precision import resolve_precision
    from torchmill.components.training.processes import processes_for, train_apart

    chosen, config = settle(config, split, device, seed, network, data, run)
    processes, precision = processes_for(config, chosen), resolve_precision(config.precision, chosen)
    job = Job(
        network=network,
        data=data,
        config=config,
        validation_fraction=split.validation_fraction,
        device=str(chosen),
        seed=seed,
        checkpoints=under_way().folder / "checkpoints",
        best=run.folder / "best.safetensors",
    )
    used = {"device": chosen, "precision": precision, "processes": processes, "compile": config.compile}
    tracking.log_params(run, {f"{name}.used": value for name, value in used.items()})
    sizes = training_sizes(data, split.validation_fraction, seed)
    told = f"{chosen}{f', {precision}' * (precision != 'fp32')}{f', {processes} processes' * (processes > 1)}"
    logger.info("fit  %s samples on %s, %s for validation", f"{sizes[0]:,}", told, f"{sizes[1]:,}")
    history = []
    evaluate.warm_up()
    to_onnx.warm_up()
    with stop_signals() as stop, TrainingDisplay(config.epochs, sizes[0], data.measure) as display:

        def resumed(epoch: int, step: int) -> None:
            under_way().resumed_at = f"epoch {epoch}, step {step}"
            logger.info("resuming run %s at %s", run.name, under_way().resumed_at)
            display.first = epoch

        for epoch in train_apart(job, processes, display.step, resumed, stop):
            history.append(epoch)
            tracking.log_metrics(run, epoch.metrics(), epoch.epoch)
            display.epoch(epoch)
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
        checkpoint=FileRef.of(job.kept().tidy()),
        device=str(chosen),
        epochs=len(history),
        best_epoch=best.epoch,
        measure=data.measure,
        validation_score=best.validation_score,
        validation_loss=best.validation_loss,
        samples_per_second=sum(epoch.samples_per_second for epoch in history) / len(history),
        stopped_early=len(history) < config.epochs,
    )


def settle(
    config: TrainConfig, split: DataConfig, device: str, seed: int, network: NetworkRef, data: DataRef, run: RunRef
) -> tuple[Any, TrainConfig]:
    """Try out what the settings leave open; gives the device, and the settings with what was found."""
    from torchmill.components.data.batches import read_training
    from torchmill.components.evaluation.pictures import draw_rates
    from torchmill.components.initialize import restore
    from torchmill.components.training.device import available, resolve
    from torchmill.components.training.find_lr import kept_lr
    from torchmill.components.training.trials import Trials

    chosen = resolve(device)
    several_devices = device == "auto" and len(available()) > 1
    if config.lr is not None and config.batch_size is not None and config.compile != "auto" and not several_devices:
        return chosen, config
    folder = under_way().folder
    training, _ = read_training(data, split.validation_fraction, seed)
    untrained = restore(network, network.weights, data)
    trials = Trials(folder, untrained, training, data, seed)
    chosen = trials.device(device, config)
    config = config.model_copy(update={"batch_size": trials.batch_size(config, chosen)})
    config = config.model_copy(update={"compile": "on" if trials.compiles(config, chosen) else "off"})
    tracking.log_params(run, {"batch_size.used": config.batch_size})
    if config.lr is None:
        curve = kept_lr(folder, untrained, training, data, config, chosen, seed)
        draw_rates(curve.rates, curve.losses, curve.found, run.folder / "lr.png")
        tracking.log_files(run, [run.folder / "lr.png"], "pictures")
        tracking.log_params(run, {"lr.used": curve.found})
        logger.info("lr  %g, a tenth of where the loss is least", curve.found)
        config = config.model_copy(update={"lr": curve.found})
    return chosen, config


@step()
def evaluate(
    config: EvaluateConfig, validation_fraction: float, seed: int, trained: FitRef, data: DataRef, run: RunRef
) -> EvaluationRef:
    """Score the best weights on the test split; how sure they may be is learned from the validation split."""
    from torchmill.components.data.batches import read_test, read_validation
    from torchmill.components.evaluation.evaluate import evaluate
    from torchmill.components.initialize import restore
    from torchmill.components.training.device import resolve

    network = restore(trained.network, trained.weights, data)
    device, validation = resolve(trained.device), read_validation(data, validation_fraction, seed)
    scores = evaluate(network, read_test(data), data, device, config.batch_size, run.folder, validation)
    tracking.log_metrics(run, scores.metrics())
    tracking.log_files(run, [one.path for one in (scores.picture, *scores.pictures)], "pictures")
    tracking.log_files(run, [one.path for one in (scores.report, scores.predictions) if one])
    measure, loss = scores.measure.replace("_", " "), PLAIN_LOSSES[data.task]
    logger.info("test  %s %s, %s %.4f", measure, scores.words(), loss, scores.loss)
    return scores


@step()
def export(config: ExportConfig, trained: FitRef, scores: EvaluationRef, data: DataRef, run: RunRef) -> ExportRef:
    """Write the ONNX model, and let it pass only if it gives the network's answers."""
    from torchmill.components.data.batches import read_sample, read_test
    from torchmill.components.export.export import export
    from torchmill.components.export.smaller import CALIBRATION
    from torchmill.components.initialize import restore

    network = restore(trained.network, trained.weights, data)
    smaller = {config.int8, config.fp16} != {"off"}
    calibration = read_sample(data, CALIBRATION, seed=0) if smaller else None
    about = {
        "network": trained.network.reference,
        "data": f"{data.name} sha256:{data.sha256}",
        "weights": f"sha256:{trained.weights.sha256}",
        f"test_{scores.measure}": f"{scores.score:.6f}",
    }
    try:
        test = read_test(data)
        model = export(network, data, test, config, about, run.folder, scores.temperature, calibration)
    finally:
        tracking.log_files(run, [path for path in [run.folder / "parity.json"] if path.exists()])
    tracking.log_files(run, [one.path for one in (model.onnx, model.example, *model.smaller) if one], "onnx")
    tracking.log_tags(run, {"onnx.sha256": model.onnx.sha256})
    tracking.log_metrics(run, {"onnx_max_abs_diff": model.max_abs_diff, "onnx_agreement": model.agreement})
    logger.info(
        "onnx  largest difference %.1e, %.2f %% of the answers agree", model.max_abs_diff, 100 * model.agreement
    )
    return model


@step()
def register(name: str, model: ExportRef, scores: EvaluationRef, data: DataRef, run: RunRef) -> str:
    """Make the ONNX model a version in the model registry; gives the version."""
    score = {f"test_{scores.measure}": f"{scores.score:.6f}"}
    tags = {**score, "onnx.sha256": model.onnx.sha256, "data.sha256": data.sha256}
    version = tracking.register(run, model, name, tags)
    if version is None:
        return PENDING
    logger.info("registered  %s version %s", name, version)
    return version


@step(once=False)
def promote(
    config: PromoteConfig, name: str, version: str, model: ExportRef, data: DataRef, run: RunRef
) -> PromotionRef:
    """Make the new version champion if it is as good as the champion; the champion may be another in each run."""
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
    logger.info("promote  %s", promotion.told(name, version, verdict, champion))
    return PromotionRef(outcome=verdict.outcome, reason=verdict.reason, champion=champion, report=FileRef.of(report))


def conclude(
    config: RunConfig,
    trained: FitRef,
    scores: EvaluationRef,
    model: ExportRef,
    data: DataRef,
    version: str | None,
    promoted: PromotionRef | None,
    run: RunRef,
) -> TrainResult:
    """Write the report, in Markdown and as a page, show it in both UIs, and give the result."""
    from torchmill.components.evaluation.report import write_report
    from torchmill.components.export.card import write_card
    from torchmill.components.recipe import git

    done = tracking.steps(run)
    report = write_report(config, trained, scores, model, data, version, promoted, done, run)
    flow_url = flow_run_url()
    text = report.read_text(encoding="utf-8")
    tracking.log_tags(run, {"mlflow.note.content": f"{text}\n[Flow run in Prefect]({flow_url})"})
    made_by = {"Run": f"{run.name} ({run.run_id})", "Commit": (git("rev-parse", "HEAD") or "").strip()}
    card = write_card(run.folder, trained.network, data, scores, model, made_by)
    tracking.log_files(run, [card], "onnx")
    tracking.log_files(run, [report, *write_page(config, run)])
    create_markdown_artifact(
        f"{text}\n[Run in MLflow]({run.url})", key="train-report", description=f"{run.name} in words"
    )
    result = TrainResult(
        run_id=run.run_id,
        status="FINISHED",
        name=run.name,
        folder=run.folder,
        mlflow_url=run.url,
        prefect_url=flow_url,
        steps=done,
        data=data,
        metrics={
            **scores.metrics(),
            f"validation_{trained.measure}": trained.validation_score,
            "samples_per_second": trained.samples_per_second,
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
        promotion=promoted,
    )
    claims.keep(Runs.here(), result)
    return result


def recipe_of(run: str) -> RunConfig:
    """Give the configuration of a recorded run, with the source of its network as it was recorded."""
    log_to_prefect()
    runs = Runs.here().ready()
    recorded = tracking.recorded(runs, run)
    folder = runs.work / "recipes" / recorded.run_id
    tracking.fetch_recipe(runs, recorded, folder)
    config = read_recipe(folder)
    logger.info("run %s (%s): %s on %s", recorded.name, recorded.run_id, config.model.name, config.data.name)
    return config.model_copy(update={"name": f"{recorded.name} again"})


def score_again(run: str, recipe: RunConfig, other: DataConfig | None) -> EvaluationRef:
    """Score the weights of a recorded run on its own data set's test split, or on another one's."""
    from torchmill.components.data.batches import read_validation
    from torchmill.components.data.fetch import arguments, fetch
    from torchmill.components.evaluation.evaluate import evaluate
    from torchmill.components.evaluation.other_data import as_trained, read_as_trained
    from torchmill.components.initialize import restore
    from torchmill.components.training.device import resolve

    runs = Runs.here()
    recorded = tracking.recorded(runs, run)
    trained = fetch(recipe.data.name, data_cache(), args=arguments(recipe.data))
    data = fetch(other.name, data_cache(), args=arguments(other)) if other else trained
    fitting = as_trained(data, trained)
    folder = evaluation_folder(runs, recorded.run_id, data)
    weights = FileRef.of(tracking.fetch_file(runs, recorded, "weights/best.safetensors", folder))
    network = NetworkRef(reference=recipe.model.name, arguments=recipe.model.args, weights=weights, parameters=0)
    validation = read_validation(trained, recipe.data.validation_fraction, recipe.seed)
    scores = evaluate(
        restore(network, weights, trained),
        read_as_trained(data, trained),
        fitting,
        resolve(recipe.device),
        recipe.evaluate.batch_size,
        folder,
        validation,
    )
    logger.info("test  %s on %s, in %s", scores.words(), data.name, folder)
    return scores


def score_onnx(model: Path, config: DataConfig | None) -> EvaluationRef:
    """Score an ONNX model on a data set's test split."""
    from torchmill.components.data.fetch import arguments, fetch
    from torchmill.components.evaluation.other_data import evaluate_onnx

    log_to_prefect()
    if not model.is_file():
        raise UserError(f"There is no file {model}.")
    if config is None:
        raise UserError(f"On which data is {model.name} to be evaluated?", "Say --data NAME.")
    data = fetch(config.name, data_cache(), args=arguments(config))
    folder = evaluation_folder(Runs.here().ready(), FileRef.of(model).sha256, data)
    scores = evaluate_onnx(model, data, folder, EvaluateConfig().batch_size)
    logger.info("test  %s on %s, in %s", scores.words(), data.name, folder)
    return scores


def evaluation_folder(runs: Runs, subject: str, data: DataRef) -> Path:
    """The place of an evaluation that belongs to no run."""
    folder = runs.work / "evaluations" / f"{subject[:12]}-{data.sha256[:12]}"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def compare(run: str, again: TrainResult) -> Reproduction:
    """Put what MLflow has of a run beside what it has of its reproduction."""
    runs = Runs.here()
    first, second = tracking.recorded(runs, run), tracking.recorded(runs, again.run_id)
    tracking.tag(runs, second.run_id, {"torchmill.reproduces": first.run_id})
    return Reproduction(recorded=first.run_id, again=second.run_id, comparisons=comparisons(first, second))
