from tests.flows.conftest import data, databases, made_once, place, prefect_api, prewarm, quick, shared, used

__all__ = ["data", "databases", "made_once", "place", "prefect_api", "prewarm", "quick", "shared", "used"]
