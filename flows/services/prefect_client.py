"""The server that Prefect's clients in this process use: its address, and the key of our own."""

import contextlib
from collections.abc import Generator

from torchmill.components.files import read_state
from torchmill.components.local_access.key import credentials
from torchmill.components.runs.folders import Runs
from torchmill.flows.services import up_state


@contextlib.contextmanager
def connected(runs: Runs, api: str, is_own: bool | None = None) -> Generator[None]:
    """Let Prefect's clients inside the block use a server.

    Args:
        is_own: True for the folder's own server, which asks for its key; None to look it up. Another server's key is in
            the user's environment or profile.

    Example:
        >>> with connected(runs, server.api), get_client(sync_client=True) as client:  # doctest: +SKIP
        ...     client.hello()
    """
    from prefect.settings import PREFECT_API_AUTH_STRING, PREFECT_API_URL, temporary_settings

    if is_own is None:
        states = map(read_state, (up_state.state_file(runs), up_state.shared_server_file(runs)))
        is_own = any(api in (state.get("prefect_api"), state.get("api")) for state in states)
    key = {PREFECT_API_AUTH_STRING: credentials(runs)} if is_own else {}
    with temporary_settings({PREFECT_API_URL: api, **key}):
        yield
