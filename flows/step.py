"""Decorators that make a function a flow or a step: what they add to Prefect's."""

import contextlib
import functools
import inspect
import logging
import os
import time
from collections.abc import Callable, Generator
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, ParamSpec, TypeVar

from prefect import Flow, Task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State
from prefect.logging.handlers import APILogHandler
from prefect.runtime import deployment, flow_run
from prefect.settings import PREFECT_FLOWS_HEARTBEAT_FREQUENCY, temporary_settings
from prefect.states import Completed

from torchmill.components import tracking
from torchmill.components.config import RunConfig
from torchmill.components.errors import UserError
from torchmill.components.refs import RunRef, StepRef
from torchmill.components.runs.fingerprint import StepFingerprint, of_step
from torchmill.components.runs.folders import Runs
from torchmill.components.runs.step_cache import StepCache
from torchmill.flows.logs import clean
from torchmill.flows.services import history, prefect_server
from torchmill.flows.services.prefect_client import connected

P = ParamSpec("P")
R = TypeVar("R")

logger = logging.getLogger("torchmill")
explanation = logging.getLogger("torchmill.explain")
"""Logger of a line per step: whether it ran, and why. `--explain` shows it."""
NEEDED_VARIABLES = "TORCHMILL_NEEDED_VARIABLES"
"""Variable with the names of those that a scheduled run needs from the process that starts it."""


@dataclass(frozen=True)
class OpenRun:
    """The run that this process works on."""

    ref: RunRef
    config: RunConfig


@dataclass
class CurrentStep:
    """The step that is running."""

    folder: Path
    """Folder of the step alone. Another process that resumes the step gets the same one."""
    resumed_at: str = ""
    """Place where an earlier process was stopped, set by the step if it goes on from there."""


_open_run: ContextVar[OpenRun] = ContextVar("open_run")
_current_step: ContextVar[CurrentStep] = ContextVar("current_step")


@contextlib.contextmanager
def opened(run: RunRef, config: RunConfig) -> Generator[None]:
    """Make a run the current one of the steps inside the block."""
    token = _open_run.set(OpenRun(run, config))
    try:
        yield
    finally:
        _open_run.reset(token)


def current_run() -> RunRef:
    """Return the run that is open."""
    return _open_run.get().ref


def current_config() -> RunConfig:
    """Return the configuration of the run that is open."""
    return _open_run.get().config


def current_step() -> CurrentStep:
    """Return the step that is running."""
    return _current_step.get()


class RecordedFlow(Flow[P, R]):
    """A Prefect flow that starts a server if none runs, so that its history is complete."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        with prefect_server.at_hand(Runs.here().ready()) as server:
            server.wait()
            # Prefect joins its heartbeat thread at the end, which takes half a second on average. On our own server
            # nobody needs heartbeats: a lock tells whether the process of a run is alive.
            beats = PREFECT_FLOWS_HEARTBEAT_FREQUENCY.value() if server.is_configured else None
            settings = temporary_settings({PREFECT_FLOWS_HEARTBEAT_FREQUENCY: beats})
            with connected(server.runs, server.api, not server.is_configured), settings:
                return history.call_flow(lambda: Flow.__call__(self, *args, **kwargs), server)


def flow(name: str, **options: Any) -> Callable[[Callable[P, R]], RecordedFlow[P, R]]:
    """Make a function a flow; options are of Prefect's flow."""
    return lambda function: RecordedFlow(history.watched(function), name=name, **options)


class Step(Task[P, R]):
    """A Prefect task that returns the result also if its function returned a state, as a cached step does."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:  # ty: ignore[incompatible-method-override]
        result = super().__call__(*args, **kwargs)
        return result.result() if isinstance(result, State) else result


def step(
    *settings: str, once: bool = True, still_holds: Callable[..., bool] = lambda *_: True, **options: Any
) -> Callable[[Callable[..., R]], Callable[..., R]]:
    """Make a function a step: a Prefect task whose result is cached, and used again if its files are intact.

    The key is the digest of the arguments, of ``settings``, and of the code and libraries that decide the result.
    Prefect's own cache would see neither a network's source nor that the files of a result are gone. Nothing is retried
    unless ``options``, which are of Prefect's task, say so.

    Args:
        settings: dotted names in the run's configuration that decide the result besides the arguments.
        once: False for a step that depends on something that changes between runs. Each run does it; a resumed run
            doesn't repeat what it has done itself.
        still_holds: gets a cached result and the step's arguments, and answers whether what the result names outside
            of the cache is still there.

    Example:
        >>> @step("seed", "data.validation_fraction")
        ... def evaluate(config: EvaluateConfig, trained: FitRef, data: DataRef) -> EvaluationRef: ...
    """

    def decorate(function: Callable[..., R]) -> Callable[..., R]:
        name = getattr(function, "__name__", "step")
        parameters = list(inspect.signature(function).parameters)

        @functools.wraps(function)
        def cached(*arguments: Any) -> Any:
            run, values = current_run(), current_config().flat()
            named = dict(zip(parameters, arguments, strict=True)) | {setting: values[setting] for setting in settings}
            fingerprint = of_step(name, named)
            result = _run_once(
                name,
                fingerprint,
                run,
                once,
                lambda: function(*arguments),
                lambda result: still_holds(result, *arguments),
            )
            history.note_task()
            return result

        return Step(cached, name=name, task_run_name=name, cache_policy=NO_CACHE, persist_result=False, **options)

    return decorate


def _run_once(
    name: str,
    fingerprint: StepFingerprint,
    run: RunRef,
    once: bool,
    work: Callable[[], R],
    still_holds: Callable[[R], bool],
) -> R | State:
    """Return the cached result of a step, or do its work and cache what it returns."""
    cache = StepCache(Runs(run.folder.parent.parent))
    with cache.lock(name, fingerprint.key):
        started = time.perf_counter()
        tracking.begin_step(run, name)
        # A fresh run, too, uses what it has done itself before it was interrupted.
        may_be_cached = (once and not run.fresh) or name in tracking.recorded_steps(run)
        hit = cache.find(name, fingerprint.key) if may_be_cached else None
        if hit and still_holds(hit[0]):
            result, entry = hit
            if entry.run != run.folder.name:
                tracking.replay(run, cache.runs.work / entry.run, name)
            why = f"from run {entry.run_name}"
            _record(run, name, fingerprint.key, "cached", why, started)
            return Completed(name="Cached", message=why, data=result)
        why = "a fresh start" if run.fresh else cache.explain(name, fingerprint) if once else "in each run"
        why = "what it made is gone" if hit else why
        step = CurrentStep(run.folder if run.fresh else cache.folder(name, fingerprint.key))
        token = _current_step.set(step)
        try:
            result = work()
        finally:
            _current_step.reset(token)
        cache.store(name, fingerprint, run, result)
        state = "resumed" if step.resumed_at else "ran"
        _record(run, name, fingerprint.key, state, step.resumed_at or why, started)
        return result


def _record(
    run: RunRef, name: str, key: str, state: Literal["ran", "resumed", "cached"], why: str, started: float
) -> None:
    tracking.log_step(run, name, StepRef(state=state, seconds=time.perf_counter() - started, key=key, why=why))
    explanation.info("%s: %s, %s", name, state, why)


def log_to_prefect() -> None:
    """Send what the components log to the flow run's log in Prefect."""
    logger.setLevel(logging.INFO)
    logger.addFilter(clean)
    if not any(isinstance(handler, APILogHandler) for handler in logger.handlers):
        logger.addHandler(APILogHandler())


def check_variables() -> None:
    """Check that a scheduled run has the variables whose values its schedule does not keep.

    Raises:
        UserError: one is missing; the run would go on with another server.
    """
    names = os.environ.get(NEEDED_VARIABLES, "").split()
    if missing := [name for name in names if not os.environ.get(name)]:
        message = f"This run needs {' and '.join(missing)}, which its schedule does not keep: it held a password."
        raise UserError(message, "Set it where `torchmill up`, or the worker that starts this run, runs.")


def flow_run_name() -> str:
    """Return the name of the flow run: the one in the configuration, or the one that Prefect made up."""
    config = flow_run.parameters.get("config")
    return getattr(config, "name", None) or flow_run.name


def is_scheduled() -> bool:
    """Return True if a schedule started this run, so that nobody watches a terminal."""
    return deployment.id is not None
