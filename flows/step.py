"""What makes a function a flow of ours, and a function one of its steps."""

import functools
import inspect
import logging
import time
from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, ParamSpec, TypeVar

from prefect import Flow, Task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State
from prefect.logging.handlers import APILogHandler
from prefect.runtime import deployment, flow_run
from prefect.settings import PREFECT_API_URL, PREFECT_FLOWS_HEARTBEAT_FREQUENCY, temporary_settings
from prefect.states import Completed

from torchmill.components import tracking
from torchmill.components.refs import RunRef, StepRef
from torchmill.components.runs import fingerprint as ingredients
from torchmill.components.runs.folders import Runs
from torchmill.components.runs.step_cache import StepCache
from torchmill.flows.services import prefect_server

P = ParamSpec("P")
R = TypeVar("R")

logger = logging.getLogger("torchmill")
explanation = logging.getLogger("torchmill.explain")
"""A line per step: whether it ran, and why. Shown by `--explain`."""


@dataclass
class CurrentStep:
    """A step that is being done."""

    folder: Path
    """Its own; whoever does the same step later, after this process has died, has the same one."""
    resumed_at: str = ""
    """Where an earlier process was stopped, if it goes on from there."""


_current_step: ContextVar[CurrentStep] = ContextVar("current_step")


class RecordedFlow(Flow[P, R]):
    """A Prefect flow that, called directly, sees to a server first, so that its history is whole."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        with prefect_server.at_hand(Runs.here().ready()) as server:
            server.wait()
            # The thread of heartbeats is waited for at the end, half a second on average. Of a server of our own nobody
            # listens to them: whether a run is alive its process tells.
            beats = PREFECT_FLOWS_HEARTBEAT_FREQUENCY.value() if server.is_configured else None
            with temporary_settings({PREFECT_API_URL: server.api, PREFECT_FLOWS_HEARTBEAT_FREQUENCY: beats}):
                return super().__call__(*args, **kwargs)


def flow(name: str, **options: Any) -> Callable[[Callable[P, R]], RecordedFlow[P, R]]:
    """Make a function a flow."""
    return lambda function: RecordedFlow(function, name=name, **options)


class Step(Task[P, R]):
    """A Prefect task that, where it ends in a state of its own making, gives what that holds."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:  # ty: ignore[incompatible-method-override]
        result = super().__call__(*args, **kwargs)
        return result.result() if isinstance(result, State) else result


def step(*, once: bool = True, **options: Any) -> Callable[[Callable[..., R]], Callable[..., R]]:
    """Make a function a step: a Prefect task that is not done again where its result is there and intact.

    Its last argument is the run; the others, with the code and the versions of libraries that it stands on, are what
    decides its result. Prefect's own cache would not see the source of a network, nor that a result's files are gone.
    Nothing is retried unless ``options`` say so.

    Args:
        once: False for a step that also depends on what changes between runs: each run does it, though a run that
            goes on does not do again what it has done itself.
    """

    def decorate(function: Callable[..., R]) -> Callable[..., R]:
        name = getattr(function, "__name__", "step")
        parameters = list(inspect.signature(function).parameters)

        @functools.wraps(function)
        def kept(*arguments: Any) -> Any:
            run: RunRef = arguments[-1]
            decided = ingredients.of_step(name, dict(zip(parameters[:-1], arguments[:-1], strict=True)))
            results = StepCache(Runs(run.folder.parent.parent))
            with results.lock(name, decided.key):
                started = time.perf_counter()
                tracking.begin_step(run, name)
                # A fresh run, too, goes on from what it has done itself.
                may_be_there = (once and not run.fresh) or name in tracking.recorded_steps(run)
                if may_be_there and (found := results.find(name, decided.key)):
                    result, entry = found
                    if entry.run != run.folder.name:
                        tracking.replay(run, results.runs.work / entry.run, name)
                    return _tell(run, name, decided.key, "cached", f"from run {entry.run_name}", started, result)
                why = results.explain(name, decided) if once else "in each run"
                why = "a fresh start" if run.fresh else why
                step = CurrentStep(run.folder if run.fresh else results.folder(name, decided.key))
                token = _current_step.set(step)
                try:
                    result = function(*arguments)
                finally:
                    _current_step.reset(token)
                results.store(name, decided, run, result)
                place = step.resumed_at
                return _tell(run, name, decided.key, "resumed" if place else "ran", place or why, started, result)

        return Step(kept, name=name, task_run_name=name, cache_policy=NO_CACHE, persist_result=False, **options)

    return decorate


def _tell(
    run: RunRef, name: str, key: str, state: Literal["ran", "resumed", "cached"], why: str, started: float, result: Any
) -> Any:
    """Record how a step went; gives its result as Prefect is to see it."""
    tracking.log_step(run, name, StepRef(state=state, seconds=time.perf_counter() - started, key=key, why=why))
    explanation.info("%s: %s, %s", name, state, why)
    return Completed(name="Cached", message=why, data=result) if state == "cached" else result


def current_step() -> CurrentStep:
    """The step that is being done: its folder, and where to say that it goes on from an earlier process."""
    return _current_step.get()


def log_to_prefect() -> None:
    """Send what the components log to the flow run's log in Prefect."""
    logger.setLevel(logging.INFO)
    if not any(isinstance(handler, APILogHandler) for handler in logger.handlers):
        logger.addHandler(APILogHandler())


def flow_run_name() -> str:
    """Name of the flow run: the configuration's, or the one that Prefect made up."""
    config = flow_run.parameters.get("config")
    return getattr(config, "name", None) or flow_run.name


def is_scheduled() -> bool:
    """Tell whether nobody sits in front of this run."""
    return deployment.id is not None
