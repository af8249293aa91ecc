"""A folder of runs is its owner's alone, unless it was made for a group: then it is the group's."""

import os
import stat
import traceback
from collections.abc import Callable
from pathlib import Path

import pytest

from torchmill.components.local_access.key import credentials
from torchmill.components.runs.folders import Runs
from torchmill.components.tracking import create_database
from torchmill.components.tracking.journal import Journal

TEAM = 54321


@pytest.fixture(autouse=True)
def _umask_of_before():
    before = os.umask(0o022)
    yield
    os.umask(before)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_a_new_one_is_its_owners_alone(tmp_path: Path):
    os.umask(0)
    assert mode(Runs(tmp_path / "mlruns").ready().folder) == 0o700


def test_one_that_is_there_stays_as_it_was_made(tmp_path: Path):
    (tmp_path / "mlruns").mkdir(mode=0o755)
    assert mode(Runs(tmp_path / "mlruns").ready().folder) == 0o755 and os.umask(0o022) == 0o022


def test_within_a_groups_folder_a_new_one_is_the_groups(tmp_path: Path):
    tmp_path.chmod(0o2775)
    os.umask(0o002)
    assert mode(Runs(tmp_path / "mlruns").ready().folder) == 0o2770


def test_in_a_shared_one_everything_is_the_groups_whatever_the_umask_says(tmp_path: Path):
    (tmp_path / "mlruns").mkdir()
    (tmp_path / "mlruns").chmod(0o2770)
    runs = Runs(tmp_path / "mlruns").ready()
    credentials(runs)
    assert mode(runs.work) & 0o070 == 0o070
    assert mode(runs.work / "key") == 0o640


def as_member(user: int, work: Callable[[], None]) -> int:
    """Run something as another user whose second group is the team's; return the exit code."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            os.setgroups([TEAM])
            os.setgid(user)
            os.setuid(user)
            os.umask(0o022)
            work()
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


@pytest.mark.skipif(os.geteuid() != 0, reason="two other users are needed, and only root may become one")
def test_what_one_member_wrote_the_next_may_change(tmp_path: Path):
    for folder in (tmp_path, *list(tmp_path.parents)[:-2]):
        folder.chmod(folder.stat().st_mode | 0o011)
    runs = Runs(tmp_path / "mlruns")
    runs.folder.mkdir()
    os.chown(runs.folder, 20001, TEAM)
    runs.folder.chmod(0o2770)

    def use(runs: Runs) -> None:
        runs.ready()
        create_database(runs)
        credentials(runs)
        Journal(runs.work).append({"kind": "tags"})

    for _ in range(2):  # imports modules, which another user may not be able to
        use(Runs(tmp_path / "other"))
    assert [as_member(user, lambda: use(runs)) for user in (20001, 20002)] == [0, 0]
    assert len((runs.work / "journal.jsonl").read_text().splitlines()) == 2
    assert mode(runs.database) & 0o070 == 0o060
