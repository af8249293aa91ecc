"""A server gets its own key, and never another one's."""

from pathlib import Path

from prefect.settings import PREFECT_API_AUTH_STRING, PREFECT_API_URL, temporary_settings

from torchmill.components.local_access.key import credentials
from torchmill.components.runs.folders import Runs
from torchmill.flows.services.prefect_client import connected


def test_the_folders_own_server_gets_its_key_and_a_users_server_the_users(tmp_path: Path):
    runs = Runs(tmp_path).ready()
    with temporary_settings({PREFECT_API_AUTH_STRING: "team:key"}):
        with connected(runs, "http://127.0.0.1:1/api", is_own=True):
            assert PREFECT_API_URL.value() == "http://127.0.0.1:1/api"
            assert PREFECT_API_AUTH_STRING.value() == credentials(runs)
        with connected(runs, "http://team.example/api", is_own=False):
            assert PREFECT_API_URL.value() == "http://team.example/api"
            assert PREFECT_API_AUTH_STRING.value() == "team:key"
