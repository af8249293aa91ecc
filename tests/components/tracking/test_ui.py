"""The command of MLflow's server."""

from pathlib import Path

import pytest

from torchmill.components.errors import UserError
from torchmill.components.runs.folders import Runs
from torchmill.components.tracking import ui


def test_an_installation_without_the_guard_is_told_in_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    runs = Runs(tmp_path).ready()
    monkeypatch.setattr(ui, "entry_points", lambda **_: ())
    with pytest.raises(UserError, match="of an earlier version") as error:
        ui.ui_command(runs, 5000)
    assert "pip install" in str(error.value)


def test_the_server_gets_the_key_in_its_environment_alone(tmp_path: Path):
    runs = Runs(tmp_path).ready()
    (key,) = (value for name, value in ui.ui_environment(runs).items() if name == "TORCHMILL_CREDENTIALS")
    assert key.startswith("torchmill:") and not any(key in word for word in ui.ui_command(runs, 5000))
