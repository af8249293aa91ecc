"""A run of the train flow: claim, open, resume and conclude it."""

import contextlib
import logging
import re
from collections.abc import Generator
from pathlib import Path
from uuid import UUID

from prefect.client.orchestration import get_client
from prefect.runtime import flow_run
from prefect.settings import PREFECT_API_URL

from torchmill.components import tracking
from torchmill.components.config import RunConfig
from torchmill.components.data.config import check_source
from torchmill.components.refs import (
    DataRef,
    EvaluationRef,
    ExportRef,
    FitRef,
    PromotionRef,
    PublishedRef,
    RunRef,
    TrainResult,
)
from torchmill.components.runs import claim as claims
from torchmill.components.runs.claim import Claim
from torchmill.components.runs.fingerprint import of_run
from torchmill.components.runs.folders import Runs
from torchmill.components.runs.snapshot import write_snapshot
from torchmill.components.runs.step_cache import StepCache
from torchmill.components.training.distributed.launch import started_ahead
from torchmill.components.wording import without_passwords
from torchmill.flows.services import crashed_runs as interrupted
from torchmill.flows.services import history, prefect_server
from torchmill.flows.step import check_variables, current_run, log_to_prefect, opened

logger = logging.getLogger("torchmill")


def claim(config: RunConfig, fresh: bool) -> Claim:
    """Claim the run of a configuration: a new one, an interrupted one to resume, or one that has finished already."""
    log_to_prefect()
    check_variables()
    check_source(config.data.name)
    runs = Runs.here().ready()
    api, own = str(PREFECT_API_URL.value()), prefect_server.keeps_its_own_history(runs)
    with contextlib.ExitStack() as locks:
        locks.enter_context(interrupted.under_watch(runs, str(flow_run.id), "" if own else without_passwords(api)))
        with history.may_be_missing("the end of runs that were interrupted"):
            for line in interrupted.close(runs, api if own else ""):
                logger.info("%s", line)
        name = flow_run.name
        new = f"{re.sub(r'[^A-Za-z0-9.-]+', '-', name)}-{str(flow_run.id)[-8:]}"
        fingerprint, still_recorded = of_run(config, tracking.destination(runs)), tracking.still_recorded(runs)
        claimed = claims.claim(runs, fingerprint, config, new, name, fresh, still_recorded)
        if claimed.result:
            tracking.cool_down()
            logger.info("nothing changed since run %s: its result stands", claimed.manifest.name)
        else:
            claimed.locks.enter_context(locks.pop_all())
        return claimed


@contextlib.contextmanager
def tracked(claimed: Claim) -> Generator[None]:
    """Open the run in MLflow and make it the current one; close it as FINISHED, FAILED or KILLED, whatever happens."""
    runs, config, name, folder = Runs.here(), claimed.manifest.config, claimed.manifest.name, claimed.folder
    if claimed.is_resumed:
        logger.info("resuming run %s", name)
        rename_flow_run(name)
    with claimed.locks:
        run = tracking.open_run(
            runs,
            folder,
            experiment=config.data.title,
            name=name,
            params=config.params(),
            tags={"prefect.flow_run": flow_run_url(), **tracking.environment_tags()},
            ui=prefect_server.ui_address(runs, "mlflow"),
            fresh=claimed.manifest.fresh,
        )
        logger.info("%s  %s on %s  (seed %d)", name, config.model.name, config.data.name, config.seed)
        status: tracking.Status = "FAILED"
        try:
            for file, place in write_snapshot(config, folder).items():
                tracking.log_files(run, [file], place)
            with started_ahead(config.train), opened(run, config):
                yield
            if not tracking.flush(run):
                logger.warning(
                    "MLflow does not answer. Its records wait in %s; the next run, or `torchmill repair`, sends them.",
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
    """Write the report page of a run that got as far as its evaluation, also if it failed later."""
    from torchmill.components.evaluation.report.page import Record, write_page

    done, results = tracking.recorded_steps(run), StepCache(Runs.here())
    cached = {step: hit[0] for step, ref in done.items() if (hit := results.find(step, ref.key))}
    if not {"fetch", "fit", "evaluate"} <= cached.keys():
        return []
    record = Record(
        config=config,
        trained=cached["fit"],
        scores=cached["evaluate"],
        model=cached.get("export"),
        data=cached["fetch"],
        version=cached.get("register"),
        promotion=cached.get("promote"),
        steps=done,
        run=run,
        curves=tracking.recorded_metrics(run),
        inspection=cached["inspect"].report if "inspect" in cached else None,
        check=cached["check"].report if "check" in cached else None,
        failure=failure,
    )
    return [write_page(record)]


def rename_flow_run(name: str) -> None:
    """Give the flow run the name of the run that it resumes."""
    with history.may_be_missing("the name of this run"), get_client(sync_client=True) as client:
        client.update_flow_run(UUID(flow_run.id), name=name)


def flow_run_url() -> str:
    """Return the address of the flow run in the Prefect UI."""
    return f"{prefect_server.prefect_ui(Runs.here())}/runs/flow-run/{flow_run.id}"


def conclude(
    config: RunConfig,
    trained: FitRef,
    scores: EvaluationRef,
    model: ExportRef,
    data: DataRef,
    version: str | None,
    promoted: PromotionRef | None,
) -> TrainResult:
    """Write the report, in Markdown and as a page, show it in both UIs, and return the result."""
    from torchmill.components.evaluation.report.markdown import write_report
    from torchmill.components.export.model_card import write_card
    from torchmill.components.runs.snapshot import git

    run = current_run()
    done = tracking.recorded_steps(run)
    report = write_report(config, trained, scores, model, data, version, promoted, done, run)
    flow_url = flow_run_url()
    text = report.read_text(encoding="utf-8")
    tracking.log_tags(run, {"mlflow.note.content": f"{text}\n[Flow run in Prefect]({flow_url})"})
    made_by = {"Run": f"{run.name} ({run.run_id})", "Commit": (git("rev-parse", "HEAD") or "").strip()}
    card = write_card(run.folder, trained.network, data, scores, model, made_by)
    tracking.log_files(run, [card], "onnx")
    tracking.log_files(run, [report, *write_page(config, run)])
    history.show_artifact("train-report", f"{text}\n[Run in MLflow]({run.url})", f"{run.name} in words")
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
    claims.save_result(Runs.here(), result)
    return result
