"""The history of a flow run in Prefect when its server goes away: waited for, done without, and completed later.

A run's results are in its folder and in MLflow. Prefect only shows them, so that nothing of it may fail a run.
"""

import contextlib
import functools
import logging
from collections.abc import Callable, Generator
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, ParamSpec, TypeVar

import httpx
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import ArtifactCreate
from prefect.client.schemas.responses import OrchestrationResult, SetStateStatus, StateAcceptDetails
from prefect.context import SyncClientContext
from prefect.runtime import flow_run, task_run
from prefect.states import State

from torchmill.components.errors import UserError
from torchmill.components.wording import without_passwords
from torchmill.flows.services import crashed_runs, prefect_server
from torchmill.flows.services.crashed_runs import Note, Outcome
from torchmill.flows.services.interpreter import skip_exit_handlers

P = ParamSpec("P")
R = TypeVar("R")

logger = logging.getLogger("torchmill")

OWN_SECONDS, OTHER_SECONDS = 90.0, 10.0
"""Longest wait for a server that has gone: our own, which is started again, and one of the user's."""
SERVER_ERRORS = (httpx.TransportError, httpx.HTTPStatusError)


@dataclass
class FlowCall:
    """How far a call of a flow has come, so that a fault of Prefect's behind its end is told from one of its own."""

    began: bool = False
    finished: bool = False
    value: Any = None
    error: BaseException | None = None
    tasks: list[tuple[str, str]] = field(default_factory=list)
    """Name and id of each task run that has ended well."""
    artifacts: list[dict[str, str]] = field(default_factory=list)
    """Artifacts that Prefect did not take."""


_call: ContextVar[FlowCall | None] = ContextVar("flow_call", default=None)


def call_flow(run_flow: Callable[[], R], server: prefect_server.ServerAtHand) -> R:
    """Call a flow whose function is ``watched``, whatever happens to the server meanwhile.

    Raises:
        UserError: the server did not take the flow run at its beginning.
    """
    server.look_after()
    for is_last in (False, True):
        call = FlowCall()
        token = _call.set(call)
        try:
            return run_flow()
        except SERVER_ERRORS as error:
            if call.error:
                raise call.error from None
            if call.finished:
                logger.warning("Prefect's server did not take the end of this run: %s.", _words(error))
                return call.value
            if call.began:
                raise
            if is_last or not server.wait_until_back(OWN_SECONDS):
                message = (
                    f"The Prefect server at {without_passwords(server.api)} did not take this run: {_words(error)}."
                )
                raise UserError(message, "Is it the right one, and is its key right?") from None
        finally:
            _call.reset(token)
    raise AssertionError("unreachable")


def watched(function: Callable[P, R]) -> Callable[P, R]:
    """Return a flow's function that settles its history when it ends, before Prefect is told of its end."""

    @functools.wraps(function)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        call = _call.get() or FlowCall()
        call.began = True
        outcome: Outcome = "CRASHED"
        try:
            call.value = function(*args, **kwargs)
            call.finished, outcome = True, "COMPLETED"
            return call.value
        except BaseException as error:
            call.error = error
            outcome = "FAILED" if isinstance(error, Exception) else "CRASHED"
            raise
        finally:
            _settle(call, outcome)

    return run


def note_task() -> None:
    """Note that the current task run has ended well."""
    if call := _call.get():
        call.tasks.append((str(task_run.name), str(task_run.id)))


@contextlib.contextmanager
def may_be_missing(subject: str) -> Generator[None]:
    """Tell Prefect something that no result depends on; if its server is away, say so and go on.

    Args:
        subject: what the server is told, for the message.
    """
    server = prefect_server.current()
    if server and server.was_lost:
        server.wait_until_back(_patience(server))
    try:
        yield
    except SERVER_ERRORS as error:
        logger.warning("Prefect's server did not take %s: %s.", subject, _words(error))


def show_artifact(key: str, markdown: str, description: str) -> None:
    """Show a page of Markdown with the flow run; if the server is away, later."""
    fields = {"key": key, "type": "markdown", "description": description, "data": markdown}
    delivered = False
    with may_be_missing("the report"), get_client(sync_client=True) as client:
        client.create_artifact(ArtifactCreate(**fields, flow_run_id=flow_run.id))  # ty: ignore[invalid-argument-type]
        delivered = True
    if not delivered and (call := _call.get()):
        call.artifacts.append(fields)


def _settle(call: FlowCall, outcome: Outcome) -> None:
    """Make sure that a server takes the flow run's end, or that ours is taken for granted and noted for later."""
    server = prefect_server.current()
    if server is None or not (server.was_lost or not server.is_reachable() or call.artifacts):
        return
    is_back = outcome != "CRASHED" and server.wait_until_back(_patience(server))
    api = without_passwords(server.api) if server.is_configured else ""
    note = Note(api=api, outcome=outcome, tasks=tuple(call.tasks), artifacts=tuple(call.artifacts))
    crashed_runs.leave_note(server.runs, str(flow_run.id), note)
    if not is_back:
        logger.warning(
            "The Prefect server of this run has gone and did not come back: its end is noted in %s. The next run, "
            "or `torchmill repair`, tells Prefect.",
            server.runs.work / "flows",
        )
        _take_states_for_granted()
        skip_exit_handlers()  # Prefect's would try for minutes to send what is left


def _patience(server: prefect_server.ServerAtHand) -> float:
    return OTHER_SECONDS if server.is_configured else OWN_SECONDS


def _take_states_for_granted() -> None:
    """Make the client of this flow run accept its states itself."""

    def accept(_flow_run_id: object, state: State, force: bool = False) -> OrchestrationResult:
        return OrchestrationResult(state=state, status=SetStateStatus.ACCEPT, details=StateAcceptDetails())

    if context := SyncClientContext.get():
        context.client.set_flow_run_state = accept  # ty: ignore[invalid-assignment]


def _words(error: Exception) -> str:
    if isinstance(error, httpx.HTTPStatusError):
        return f"it answered {error.response.status_code}"
    return without_passwords(str(error)) or type(error).__name__
