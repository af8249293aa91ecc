from tests.flows.conftest import data, databases, place, prefect_api, shared, used

__all__ = ["data", "databases", "place", "prefect_api", "shared", "used"]
