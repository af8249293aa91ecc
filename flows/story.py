"""What makes a function a flow of ours, and a function one of its steps."""

import functools
import logging
import time
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

from prefect import Flow, Task
from prefect.cache_policies import NO_CACHE
from prefect.logging.handlers import APILogHandler
from prefect.runtime import deployment, flow_run
from prefect.settings import PREFECT_API_URL, temporary_settings

from components import tracking
from components.places import Runs
from components.refs import RunRef, StepRef
from flows import prefect_server

P = ParamSpec("P")
R = TypeVar("R")

logger = logging.getLogger("torchmill")


class Story(Flow[P, R]):
    """A Prefect flow that, called directly, sees to a server first, so that its history is whole."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        with prefect_server.at_hand(Runs.here().ready()) as server:
            server.wait()
            with temporary_settings({PREFECT_API_URL: server.api}):
                return super().__call__(*args, **kwargs)


def story(name: str, **options: Any) -> Callable[[Callable[P, R]], Story[P, R]]:
    """Make a function a flow."""
    return lambda function: Story(function, name=name, **options)


def step(**options: Any) -> Callable[[Callable[..., R]], Callable[..., R]]:
    """Make a function a step: a Prefect task whose time is recorded in the run.

    Its last argument is the run. Nothing is cached by Prefect, nothing is retried unless ``options`` say so.
    """

    def decorate(function: Callable[..., R]) -> Callable[..., R]:
        name = getattr(function, "__name__", "step")

        @functools.wraps(function)
        def timed(*arguments: Any) -> R:
            run: RunRef = arguments[-1]
            started = time.perf_counter()
            result = function(*arguments)
            tracking.log_step(run, name, StepRef(state="ran", seconds=time.perf_counter() - started))
            return result

        return Task(timed, name=name, task_run_name=name, cache_policy=NO_CACHE, persist_result=False, **options)

    return decorate


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
