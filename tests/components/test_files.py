import errno
import multiprocessing
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from torchmill.components.errors import UserError
from torchmill.components.files import (
    append_to,
    locked,
    make_own_folder,
    new_file,
    temporary_folder,
    write_atomically,
    write_text,
)


def names(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]


def test_a_file_appears_under_its_name_only_when_whole(tmp_path):
    seen = []

    def write(partial: Path) -> None:
        partial.write_text("new")
        seen.append((partial.parent, path.read_text()))

    path = tmp_path / "file"
    path.write_text("old")
    write_atomically(path, write)
    assert seen == [(tmp_path, "old")]  # in the same folder, or the last step would not be atomic
    assert (path.read_text(), names(tmp_path)) == ("new", ["file"])


@pytest.mark.parametrize(
    ("number", "said"),
    [(errno.ENOSPC, "No space left on device. Free some space."), (errno.EROFS, "Is the place writable?")],
)
def test_a_disk_that_takes_no_more_is_told_and_the_old_file_stays(tmp_path, number, said):
    def write(partial: Path) -> None:
        partial.write_text("half")
        raise OSError(number, os.strerror(number))

    (tmp_path / "file").write_text("old")
    with pytest.raises(UserError, match=said) as raised:
        write_atomically(tmp_path / "file", write)
    assert str(tmp_path / "file") in str(raised.value)
    assert ((tmp_path / "file").read_text(), names(tmp_path)) == ("old", ["file"])


def test_a_fault_of_the_writer_is_its_own_and_leaves_nothing(tmp_path):
    def write(partial: Path) -> None:
        partial.write_text("half")
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        write_atomically(tmp_path / "file", write)
    assert names(tmp_path) == []


def test_a_missing_folder_is_told_in_words(tmp_path):
    with pytest.raises(UserError, match=r"Cannot write .*No such file or directory"):
        write_text(tmp_path / "missing" / "file", "text")


def test_text_is_utf_8_whatever_the_machine_prefers(tmp_path):
    write_text(tmp_path / "file", "3×3 – …")
    assert (tmp_path / "file").read_bytes().decode("utf-8") == "3×3 – …"


def _hold(path: Path, held, release) -> None:
    with locked(path):
        held.set()
        release.wait(20)


def test_a_lock_is_held_against_other_processes_and_freed_by_the_death_of_its_holder(tmp_path):
    context = multiprocessing.get_context("spawn")
    held, release = context.Event(), context.Event()
    holder = context.Process(target=_hold, args=(tmp_path / "lock", held, release))
    holder.start()
    try:
        assert held.wait(20)
        with locked(tmp_path / "lock", wait=False) as got:
            assert not got
    finally:
        holder.kill()
        holder.join()
    with locked(tmp_path / "lock", wait=False) as got:
        assert got


def test_a_shared_lock_goes_with_others_of_its_kind_and_not_with_an_exclusive_one(tmp_path):
    path = tmp_path / "lock"
    with locked(path, shared=True), locked(path, shared=True, wait=False) as second, locked(path, wait=False) as alone:
        assert (second, alone) == (True, False)
    with locked(path, wait=False) as alone, locked(path, shared=True, wait=False) as second:
        assert (alone, second) == (True, False)


def planted(tmp_path: Path, name: str) -> Path:
    """Plant a link under a name that can be guessed; return the file of somebody else's choice that it leads to."""
    (tmp_path / "victim").write_text("precious")
    (tmp_path / name).symlink_to(tmp_path / "victim")
    return tmp_path / "victim"


def test_a_planted_link_is_not_written_through(tmp_path):
    victim = planted(tmp_path, f".file.{os.getpid()}.partial")
    write_text(tmp_path / "file", "ours")
    (tmp_path / ".other.tmp").symlink_to(victim)
    with new_file(tmp_path / "other") as file:
        file.write(b"ours")
    assert victim.read_text() == "precious"
    assert (tmp_path / "file").read_text() == (tmp_path / "other").read_text() == "ours"
    assert sorted(names(tmp_path)) == ["file", "other", "victim"]


def test_a_planted_log_or_lock_is_refused(tmp_path):
    victim = planted(tmp_path, "log")
    with pytest.raises(OSError, match="symbolic links"):
        append_to(tmp_path / "log")
    with pytest.raises(UserError, match="Cannot write"), locked(tmp_path / "log"):
        pass
    assert victim.read_text() == "precious"


def test_a_folder_for_temporary_files_is_ones_own(tmp_path):
    make_own_folder(tmp_path / "parts")
    make_own_folder(tmp_path / "parts")  # of an earlier process
    assert (tmp_path / "parts").stat().st_mode & 0o777 == 0o700
    (tmp_path / "link").symlink_to(tmp_path / "parts")
    (tmp_path / "file").touch()
    for name in ("link", "file"):
        with pytest.raises(UserError, match=f"{name} is .* temporary files belong there"):
            make_own_folder(tmp_path / name)


@pytest.mark.skipif(os.geteuid() != 0, reason="another user is needed, and only root may make files of one")
def test_another_users_folder_is_refused(tmp_path):
    (tmp_path / "parts").mkdir()
    os.chown(tmp_path / "parts", 65534, 65534)
    with pytest.raises(UserError, match="no folder of yours"):
        make_own_folder(tmp_path / "parts")


def test_temporary_folders_of_killed_processes_are_removed_and_no_others(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    command = (
        "import sys, time\nfrom torchmill.components.files import temporary_folder\n"
        "with temporary_folder() as folder:\n    print(folder, flush=True)\n    time.sleep(600)\n"
    )
    started = [
        subprocess.Popen(
            [sys.executable, "-c", command], stdout=subprocess.PIPE, text=True, env={"TMPDIR": str(tmp_path)}
        )
        for _ in range(2)
    ]
    killed, living = (Path(process.stdout.readline().strip()) for process in started if process.stdout)
    (tmp_path / "torchmill-abcdefgh").symlink_to(tmp_path)
    (tmp_path / "torchmill-abcdefg").mkdir()
    (tmp_path / "torchmill-new_____").mkdir()
    old = tmp_path / "torchmill-old_____"
    old.mkdir()
    started[0].kill()
    started[0].communicate()
    for folder in (killed, living, old):
        os.utime(folder, (0, 0))
    with temporary_folder() as own:
        present = {path.name for path in tmp_path.iterdir()}
    started[1].kill()
    started[1].communicate()
    kept = {living.name, own.name, "torchmill-abcdefgh", "torchmill-abcdefg", "torchmill-new_____"}
    assert present == kept


def test_the_umask_decides_who_may_read_a_file_whoever_writes_it(tmp_path):
    def write(partial: Path) -> None:
        (tmp_path / "own").touch(mode=0o600)
        (tmp_path / "own").replace(partial)

    before = os.umask(0o002)
    write_atomically(tmp_path / "file", write)
    os.umask(before)
    assert (tmp_path / "file").stat().st_mode & 0o777 == 0o664
