"""The key is random, stays, and is read by its owner alone."""

import stat
from pathlib import Path

import pytest

from torchmill.components.errors import UserError
from torchmill.components.local_access.key import credentials, signed_in
from torchmill.components.runs.folders import Runs


@pytest.fixture
def runs(tmp_path: Path) -> Runs:
    return Runs(tmp_path / "mlruns").ready()


def test_it_is_made_once_and_is_another_one_in_another_folder(runs: Runs, tmp_path: Path):
    first = credentials(runs)
    assert first == credentials(runs) and len(first) > 40 and first.startswith("torchmill:")
    assert credentials(Runs(tmp_path / "other").ready()) != first
    assert stat.S_IMODE((runs.work / "key").stat().st_mode) == 0o600


def test_one_that_others_may_read_is_not_used(runs: Runs):
    credentials(runs)
    (runs.work / "key").chmod(0o644)
    with pytest.raises(UserError, match="Others own or may read") as error:
        credentials(runs)
    assert "Remove it" in str(error.value)


def test_a_link_is_not_followed(runs: Runs, tmp_path: Path):
    (tmp_path / "planted").write_text("known")
    (tmp_path / "planted").chmod(0o600)
    (runs.work / "key").symlink_to(tmp_path / "planted")
    with pytest.raises(UserError, match="Cannot read the key"):
        credentials(runs)
    assert (tmp_path / "planted").read_text() == "known"


def test_an_empty_one_whose_writer_was_killed_is_made_anew(runs: Runs):
    (runs.work / "key").touch(mode=0o600)
    assert len(credentials(runs)) > 40


def test_an_address_that_signs_in_has_the_key_before_the_name():
    assert signed_in("http://127.0.0.1:5000", "torchmill:key") == "http://torchmill:key@127.0.0.1:5000"
