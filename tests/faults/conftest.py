from tests.flows.conftest import data, databases, place, prefect_api, prewarm, quick, shared, used

__all__ = ["data", "databases", "place", "prefect_api", "prewarm", "quick", "shared", "used"]
