import pickle

import pytest
import torch

from components.errors import UserError
from components.refs import FileRef
from components.training import checkpoint


class Evil:
    ran = False

    def __reduce__(self):
        return setattr, (Evil, "ran", True)


def test_a_state_comes_back_as_it_was(tmp_path):
    state = {"epoch": 3, "loss": 0.1, "network": {"a": torch.arange(3.0)}, "optimizer": {"state": {}, "lrs": [1e-3]}}
    ref = checkpoint.save(state, tmp_path / "last.pt")
    assert ref == FileRef.of(tmp_path / "last.pt")
    loaded = checkpoint.load(tmp_path / "last.pt")
    assert torch.equal(loaded.pop("network")["a"], state.pop("network")["a"])
    assert loaded == state


def test_a_foreign_file_runs_no_code(tmp_path):
    torch.save({"network": Evil()}, tmp_path / "last.pt")
    with pytest.raises(pickle.UnpicklingError):
        checkpoint.load(tmp_path / "last.pt")
    assert not Evil.ran


def test_a_disk_that_takes_no_more_is_told_and_the_last_good_state_stays(tmp_path, small_disk):
    checkpoint.save({"epoch": 1}, tmp_path / "last.pt")
    big = {"epoch": 2, "network": torch.zeros(100_000)}
    with small_disk(100_000), pytest.raises(UserError, match=r"Cannot write .*last.pt: File too large"):
        checkpoint.save(big, tmp_path / "last.pt")
    assert checkpoint.load(tmp_path / "last.pt") == {"epoch": 1}
    assert [path.name for path in tmp_path.iterdir()] == ["last.pt"]
