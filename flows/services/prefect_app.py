"""`python -m torchmill.flows.services.prefect_app PORT`: Prefect's server, as an ordinary ASGI application.

`prefect server start` runs the same, after 3 s of imports. uvicorn's own command line would look for `prefect` in the
current folder first.
"""

import sys

import uvicorn


def serve(port: int) -> None:
    """Serve Prefect's API and UI on a port of 127.0.0.1 until a signal ends it."""
    application = "prefect.server.api.server:create_app"
    uvicorn.run(application, factory=True, host="127.0.0.1", port=port, log_level="warning")


if __name__ == "__main__":
    serve(int(sys.argv[1]))
