"""`python -m torchmill.flows.services.prefect_app PORT`: Prefect's server behind a guard.

`prefect server start` runs the same, after 3 s of imports. uvicorn's own command line would look for `prefect` in the
current folder first.
"""

import os
import sys

import uvicorn

from torchmill.components.local_access.guard import CREDENTIALS, Guard

OPEN_PATHS = ("/api/health", "/api/ready")


def create_app() -> Guard:
    """Return Prefect's API and UI, for those who have the credentials in the environment."""
    from prefect.server.api import server

    return Guard(server.create_app(), os.environ[CREDENTIALS], OPEN_PATHS)


def serve(port: int) -> None:
    """Serve Prefect's API and UI on a port of 127.0.0.1 until a signal ends it."""
    uvicorn.run(create_app, factory=True, host="127.0.0.1", port=port, log_level="warning")


if __name__ == "__main__":
    serve(int(sys.argv[1]))
