from tests.flows.conftest import data, databases, place, prefect_api, quick, shared, standby, used

__all__ = ["data", "databases", "place", "prefect_api", "quick", "shared", "standby", "used"]
