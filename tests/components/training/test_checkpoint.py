import errno
import hashlib
import io
import pickle
import time
from pathlib import Path

import pytest
import torch

from torchmill.components.errors import UserError
from torchmill.components.training.checkpoint import Checkpoints


class Bomb:
    """Creates a file when it is unpickled."""

    def __init__(self, trace: Path):
        self.trace = trace

    def __reduce__(self):
        return Path.touch, (self.trace,)


@pytest.fixture
def checkpoints(tmp_path) -> Checkpoints:
    return Checkpoints(tmp_path / "checkpoints", 30)


def content(state: object) -> bytes:
    buffer = io.BytesIO()
    torch.save(state, buffer)
    return buffer.getvalue()


def place(checkpoints: Checkpoints, number: int, content: bytes) -> Path:
    """Write a file whose name has the right digest."""
    path = checkpoints.folder / f"{number:06d}-{hashlib.sha256(content).hexdigest()[:16]}.pt"
    path.write_bytes(content)
    return path


def present(checkpoints: Checkpoints) -> list[str]:
    return sorted(path.name for path in checkpoints.folder.iterdir())


def test_a_state_comes_back_as_it_was(checkpoints):
    state = {"epoch": 3, "loss": 0.1, "network": {"a": torch.arange(3.0)}, "optimizer": {"state": {}, "lrs": [1e-3]}}
    path = checkpoints.save(state)
    assert path.stem.partition("-")[2] == hashlib.sha256(path.read_bytes()).hexdigest()[:16]
    loaded = checkpoints.newest()
    assert torch.equal(loaded.pop("network")["a"], state.pop("network")["a"])
    assert loaded == state


def test_an_empty_folder_has_no_checkpoint(checkpoints, caplog):
    assert checkpoints.newest() is None and not caplog.records


def test_two_are_kept_and_one_after_the_end(checkpoints):
    for epoch in range(5):
        checkpoints.save({"epoch": epoch})
    assert [name[:6] for name in present(checkpoints)] == ["000004", "000005"]
    assert [checkpoints.tidy().name] == present(checkpoints)
    assert checkpoints.newest() == {"epoch": 4}


def test_numbers_go_on_where_another_process_left_off(checkpoints):
    checkpoints.save({"epoch": 1})
    again = Checkpoints(checkpoints.folder, 30)
    assert again.save({"epoch": 2}).name.startswith("000002-")
    assert again.newest() == {"epoch": 2}


def test_a_million_checkpoints_are_not_too_many(checkpoints):
    place(checkpoints, 999_999, content({"epoch": 1}))
    checkpoints.save({"epoch": 2})
    checkpoints.save({"epoch": 3})
    assert checkpoints.newest() == {"epoch": 3}


def truncate(whole: bytes) -> bytes:
    return whole[: len(whole) // 2]


def flip(whole: bytes) -> bytes:
    return whole[:200] + bytes([whole[200] ^ 1]) + whole[201:]


@pytest.mark.parametrize("damage", [truncate, flip, lambda whole: b""], ids=["truncated", "flipped", "empty"])
def test_a_damaged_checkpoint_is_reported_and_the_one_before_is_used(checkpoints, caplog, damage):
    checkpoints.save({"epoch": 1})
    newest = checkpoints.save({"epoch": 2})
    newest.write_bytes(damage(newest.read_bytes()))
    assert checkpoints.newest() == {"epoch": 1}
    (warning,) = caplog.messages
    assert newest.name in warning and "does not match its checksum" in warning
    assert checkpoints.newest() == {"epoch": 1}  # without a second warning
    assert len(caplog.messages) == 1


def test_if_all_checkpoints_are_damaged_there_is_none(checkpoints, caplog):
    for epoch in range(2):
        path = checkpoints.save({"epoch": epoch})
        path.write_bytes(flip(path.read_bytes()))
    (checkpoints.folder / present(checkpoints)[0]).write_bytes(b"")
    assert checkpoints.newest() is None and len(caplog.messages) == 2
    checkpoints.save({"epoch": 3})
    assert checkpoints.newest() == {"epoch": 3}


def test_damaged_files_are_removed_at_the_end(checkpoints):
    checkpoints.save({"epoch": 1}).write_bytes(b"")
    assert checkpoints.newest() is None
    checkpoints.save({"epoch": 2})
    assert [checkpoints.tidy().name] == present(checkpoints)


@pytest.mark.parametrize("as_torch", [True, False], ids=["as torch writes it", "as a bare pickle"])
def test_a_foreign_file_under_a_right_name_runs_no_code(checkpoints, tmp_path, caplog, as_torch):
    checkpoints.save({"epoch": 1})
    bomb = {"network": Bomb(tmp_path / "trace")}
    # torch.load reads pickles of protocol 2 that torch did not write, too
    place(checkpoints, 2, content(bomb) if as_torch else pickle.dumps(bomb, protocol=2))
    assert checkpoints.newest() == {"epoch": 1}
    assert not (tmp_path / "trace").exists() and "is damaged" in caplog.text


def test_nonsense_under_a_right_name_is_left_out(checkpoints):
    checkpoints.save({"epoch": 1})
    place(checkpoints, 2, b"\x80\x02h\x01.")  # a pickle with a dangling reference
    assert checkpoints.newest() == {"epoch": 1}


def test_foreign_names_are_left_alone(checkpoints):
    foreign = checkpoints.folder / "notes.pt"
    foreign.write_text("mine")
    checkpoints.save({"epoch": 1})
    checkpoints.tidy()
    assert checkpoints.newest() == {"epoch": 1} and foreign.read_text() == "mine"


def test_a_full_disk_is_an_error_and_the_last_good_state_stays(checkpoints, small_disk):
    checkpoints.save({"epoch": 1})
    before = present(checkpoints)
    big = {"epoch": 2, "network": torch.zeros(100_000)}
    with small_disk(100_000), pytest.raises(UserError, match=r"Cannot write .*\.pt: File too large"):
        checkpoints.save(big)
    assert checkpoints.newest() == {"epoch": 1} and present(checkpoints) == before
    checkpoints.save(big)
    assert checkpoints.newest()["epoch"] == 2


def test_trying_to_save_on_a_full_disk_only_warns(checkpoints, small_disk, caplog):
    checkpoints.save({"epoch": 1})
    with small_disk(1000):
        checkpoints.try_to_save({"epoch": 2, "network": torch.zeros(1000)})
    (warning,) = caplog.messages
    assert warning.startswith("No checkpoint: Cannot write") and "The training goes on" in warning
    assert checkpoints.newest() == {"epoch": 1}


def test_a_disk_that_fails_at_the_last_moment_leaves_the_earlier_one(checkpoints, monkeypatch, caplog):
    checkpoints.save({"epoch": 1})

    def fail(self: Path, target: Path) -> None:
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as broken:
        broken.setattr(Path, "replace", fail)
        checkpoints.try_to_save({"epoch": 2})
        with pytest.raises(UserError, match="Input/output error"):
            checkpoints.save({"epoch": 2})
    assert len(caplog.messages) == 1
    assert checkpoints.newest() == {"epoch": 1}
    checkpoints.save({"epoch": 3})
    assert checkpoints.newest() == {"epoch": 3}
    assert [name[:6] for name in present(checkpoints)] == ["000001", "000002"]  # and nothing partial


def test_half_written_files_of_a_killed_process_are_removed_at_the_next_save(checkpoints):
    half = checkpoints.folder / ".000001-0123456789abcdef.pt.4711.partial"
    half.write_bytes(b"half")
    path = checkpoints.save({"epoch": 1})
    assert present(checkpoints) == [path.name]


@pytest.mark.parametrize(
    ("interval", "ago", "cost", "at_end", "due"),
    [
        (30, 29, 0, False, False),
        (30, 31, 0, False, True),
        (30, 31, 0.7, False, False),  # 2 % of 31 s is 0.62 s
        (30, 36, 0.7, False, True),
        (30, 0, 0, True, True),
        (30, 4, 0.1, True, False),
        (30, 6, 0.1, True, True),
        (0, 0, 100, False, True),
        (0, 0, 100, True, True),
    ],
)
def test_a_checkpoint_is_due_after_the_interval_if_it_costs_at_most_2_percent(
    checkpoints, interval, ago, cost, at_end, due
):
    checkpoints.interval_seconds, checkpoints.cost_seconds = interval, cost
    checkpoints.written = time.monotonic() - ago
    assert checkpoints.is_due(at_end_of_epoch=at_end) is due


def test_a_checkpoint_just_written_is_not_due_again_and_its_cost_is_measured(checkpoints):
    checkpoints.written = time.monotonic() - 31
    assert checkpoints.is_due()
    before = time.monotonic()
    checkpoints.save({"network": torch.zeros(1_000_000)})
    assert 0 < checkpoints.cost_seconds <= time.monotonic() - before
    assert not checkpoints.is_due() and not checkpoints.is_due(at_end_of_epoch=True)


def test_a_failed_checkpoint_is_tried_again_after_the_interval(checkpoints, small_disk):
    checkpoints.written = time.monotonic() - 31
    with small_disk(10):
        checkpoints.try_to_save({"epoch": 1})
    assert not checkpoints.is_due()
    checkpoints.written -= 31
    assert checkpoints.is_due()
