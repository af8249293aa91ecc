from tests.flows.conftest import (
    data,
    databases,
    made_once,
    place,
    prefect_api,
    prewarm,
    prewarm_without_server,
    quick,
    session_folder,
    shared,
    started_once,
    used,
)

__all__ = [
    "data",
    "databases",
    "made_once",
    "place",
    "prefect_api",
    "prewarm",
    "prewarm_without_server",
    "quick",
    "session_folder",
    "shared",
    "started_once",
    "used",
]
