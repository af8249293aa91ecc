from tests.flows.conftest import data, databases, place, used

__all__ = ["data", "databases", "place", "used"]
