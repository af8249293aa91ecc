"""The server that Prefect's clients in this process use: its address, and the key of our own."""

import contextlib
from collections.abc import Generator

from torchmill.components.local_access.key import credentials
from torchmill.components.runs.folders import Runs
from torchmill.components.wording import without_passwords


@contextlib.contextmanager
def connected(runs: Runs, api: str, is_own: bool) -> Generator[None]:
    """Connect Prefect's clients inside the block to a server.

    Args:
        is_own: True for the folder's own server, which asks for its key. The key of a user's server is in the user's
            environment or profile.

    Example:
        >>> with connected(runs, server.api, is_own=True), get_client(sync_client=True) as client:  # doctest: +SKIP
        ...     client.hello()
    """
    from prefect.settings import PREFECT_API_AUTH_STRING, PREFECT_API_URL, temporary_settings

    key = {PREFECT_API_AUTH_STRING: credentials(runs)} if is_own else {}
    configured = PREFECT_API_URL.value() or ""
    if without_passwords(configured) == api:  # state files keep no passwords
        api = configured
    with temporary_settings({PREFECT_API_URL: api, **key}):
        yield
