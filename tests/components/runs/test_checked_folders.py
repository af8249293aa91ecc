"""Folders that were whole at a check are checked again only if one of their files has changed since."""

import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from torchmill.components.runs import checked_folders
from torchmill.components.runs.checked_folders import CheckedFolders
from torchmill.components.runs.folders import Runs
from torchmill.components.state_files import only_looking

RUN, STEP = "digits-1", "steps/fit/0123456789abcdef"


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Runs:
    monkeypatch.setattr(checked_folders, "SETTLED_NANOSECONDS", 0)
    runs = Runs(tmp_path / "mlruns").ready()
    for name in (RUN, "digits-2", STEP, f"{STEP}/checkpoints", "steps/fit/fedcba9876543210", "keys"):
        (runs.work / name).mkdir(parents=True)
    for file in (f"{RUN}/run.json", f"{RUN}/journal.jsonl", "digits-2/run.json", f"{STEP}/result.json", "keys/k"):
        (runs.work / file).write_text('{"a": 1}')
    return runs


def changed(runs: Runs) -> set[str]:
    return {folder.relative_to(runs.work).as_posix() for folder in CheckedFolders(runs).changed}


def check(runs: Runs, *doubtful: str) -> None:
    """Check all folders, of which a run watches the index of its key."""
    folders = CheckedFolders(runs)
    if runs.work / RUN in folders.changed:
        folders.watch(runs.work / RUN, runs.work / "keys/k")
    for name in doubtful:
        folders.doubt(runs.work / name)
    folders.save()


def replace(path: Path) -> None:
    partial = path.with_name("new")
    partial.write_bytes(path.read_bytes())
    partial.replace(path)


def overwrite_with_its_size_and_time(path: Path) -> None:
    status = path.stat()
    path.write_bytes(b"x" * status.st_size)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert (path.stat().st_size, path.stat().st_mtime_ns) == (status.st_size, status.st_mtime_ns)


def touch_in_the_past(path: Path) -> None:
    os.utime(path, (1, 1))


CHANGES: tuple[Callable[[Path], object], ...] = (
    overwrite_with_its_size_and_time,
    replace,
    touch_in_the_past,
    Path.unlink,
    lambda path: path.write_text(""),
)


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize(
    ("file", "folders"),
    [
        (f"{RUN}/run.json", {RUN}),
        (f"{RUN}/journal.jsonl", {RUN}),
        (f"{STEP}/result.json", {STEP}),
        ("keys/k", {RUN}),
    ],
)
def test_a_file_that_changed_in_any_way_is_checked_again(
    runs: Runs, file: str, folders: set[str], change: Callable[[Path], object]
):
    assert changed(runs) == {RUN, "digits-2", STEP, "steps/fit/fedcba9876543210", "keys"}
    check(runs)
    assert changed(runs) == set()
    change(runs.work / file)
    assert changed(runs) - {"keys"} == folders
    check(runs)
    assert changed(runs) == set()


@pytest.mark.parametrize("place", [RUN, STEP, f"{STEP}/checkpoints"])
def test_a_new_file_or_state_file_anywhere_in_a_folder_is_seen(runs: Runs, place: str):
    check(runs)
    (runs.work / place / ".x.7.partial").touch()
    assert changed(runs) == {place.removesuffix("/checkpoints")}


def test_new_folders_are_checked_and_those_that_are_gone_are_forgotten(runs: Runs):
    check(runs)
    (runs.work / "digits-2" / "run.json").unlink()
    (runs.work / "digits-2").rmdir()
    (runs.work / "digits-3").mkdir()
    assert changed(runs) == {"digits-3"}
    check(runs)
    assert changed(runs) == set() and "digits-2" not in (runs.work / "checked.json").read_text()


def test_what_was_doubted_is_checked_again_until_it_is_whole(runs: Runs):
    check(runs, f"{STEP}/result.json", f"{RUN}/journal.jsonl")
    assert changed(runs) == {RUN, STEP}
    check(runs)
    assert changed(runs) == set()


def test_a_change_while_it_was_checked_is_seen_at_the_next_check(runs: Runs):
    folders = CheckedFolders(runs)
    assert len(folders.changed) == 5
    overwrite_with_its_size_and_time(runs.work / RUN / "run.json")
    folders.save()
    assert changed(runs) == {RUN}


def test_what_changed_a_moment_ago_is_not_yet_sure(runs: Runs, monkeypatch: pytest.MonkeyPatch):
    """A second change within one tick of the file system's clock would leave all times as they are."""
    monkeypatch.undo()
    check(runs)
    assert len(changed(runs)) == 5
    monkeypatch.setattr(time, "time_ns", lambda: 2**62)
    check(runs)
    assert changed(runs) == set()


def test_another_version_of_the_checks_checks_everything(runs: Runs, monkeypatch: pytest.MonkeyPatch):
    check(runs)
    monkeypatch.setattr(checked_folders, "VERSION", "another")
    assert len(changed(runs)) == 5


@pytest.mark.parametrize("damage", [b"", b"[]", b'{"checks": 7}', b'{"marks": {"": {"digits-1": "x"}}}', b"\xff"])
def test_without_a_note_or_with_a_damaged_one_everything_is_checked(runs: Runs, damage: bytes):
    check(runs)
    (runs.work / "checked.json").write_bytes(damage)
    assert len(changed(runs)) == 5
    check(runs)
    assert changed(runs) == set()
    (runs.work / "checked.json").unlink()
    assert len(changed(runs)) == 5


def test_a_note_that_cannot_be_written_is_no_error(runs: Runs):
    (runs.work / "checked.json").mkdir()
    with only_looking():
        check(runs)
        assert {RUN, STEP} <= changed(runs)


def test_a_link_to_a_state_file_is_followed(runs: Runs, tmp_path: Path):
    (tmp_path / "elsewhere").write_text("{}")
    (runs.work / "digits-2" / "run.json").unlink()
    (runs.work / "digits-2" / "run.json").symlink_to(tmp_path / "elsewhere")
    check(runs)
    overwrite_with_its_size_and_time(tmp_path / "elsewhere")
    assert changed(runs) == {"digits-2"}
