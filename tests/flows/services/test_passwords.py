"""Passwords in addresses open the servers, and are neither shown nor kept."""

from pathlib import Path

import pytest

from tests.flows.conftest import Place, make_used_place, without_key
from tests.flows.services.test_up import Up
from torchmill.components.wording import without_passwords

pytestmark = pytest.mark.services

MIRROR = "http://someone:mirrors-password@127.0.0.1:9"


def holding(folder: Path, *secrets: str) -> list[Path]:
    """Files with a secret in them."""
    files = [path for path in folder.rglob("*") if path.is_file() and not path.is_symlink()]
    return [path for path in files if any(secret.encode() in path.read_bytes() for secret in secrets)]


def test_a_team_s_servers_get_the_password_and_nobody_else(used: Place, tmp_path: Path, data: Path, databases: Path):
    (tmp_path / "team").mkdir()
    team = make_used_place(tmp_path / "team", data, databases)
    up = Up(team, "--no-prewarm")
    mlflow, prefect = up.address("MLflow"), f"{up.address('Prefect')}/api"
    key = without_key(mlflow)[1].partition(":")[2]
    environment = {"MLFLOW_TRACKING_URI": mlflow, "PREFECT_API_URL": prefect, "TORCHMILL_MIRROR": MIRROR}
    try:
        done = used.torchmill("train", "--train.epochs", "1", env=environment)
        assert done.returncode == 0, done.stderr
        assert f"{without_key(mlflow)[0]}/#/experiments/" in done.stdout
        scheduled = used.torchmill("schedule", "--cron", "0 3 * * *", env=environment)
        assert scheduled.returncode == 0 and "MLFLOW_TRACKING_URI holds a password" in scheduled.stdout
        told = done.stdout + done.stderr + scheduled.stdout + scheduled.stderr
        assert key not in told and "mirrors-password" not in told
    finally:
        assert up.end() == 0
        team.end()
    assert holding(used.folder / "mlruns", key, "mirrors-password") == []
    own = {team.runs / "work" / "key"}
    assert set(holding(team.runs, key, "mirrors-password")) <= own
    names = team.mlflow("SELECT name FROM runs")
    assert len(names) == 1 and team.prefect("SELECT state_type FROM flow_run WHERE flow_id IS NOT NULL")[0][0]
    ((kept,),) = team.prefect("SELECT infra_overrides FROM deployment")
    assert "{{ $MLFLOW_TRACKING_URI }}" in kept and "{{ $TORCHMILL_MIRROR }}" in kept


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("http://u:p@host:1/x?y=z@w", "http://host:1/x?y=z@w"),
        ("postgresql://u:p%40q@h/db and https://token@h", "postgresql://h/db and https://h"),
        ("https://u:p@w@h/", "https://h/"),
        ('{"a": "http://h/", "b": "me@h"}', '{"a": "http://h/", "b": "me@h"}'),
        ("file:///home/me@work/x", "file:///home/me@work/x"),
    ],
)
def test_an_address_is_shown_without_its_password(text: str, shown: str):
    assert without_passwords(text) == shown
