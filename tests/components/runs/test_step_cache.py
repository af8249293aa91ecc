"""Results of steps by key: found where every file is what it was, wherever the folder lies now."""

from pathlib import Path

import pytest

from torchmill.components.errors import UserError
from torchmill.components.refs import FileRef, NetworkRef, RunRef
from torchmill.components.runs.fingerprint import StepFingerprint, of_step
from torchmill.components.runs.folders import Runs
from torchmill.components.runs.step_cache import Results
from torchmill.components.training.config import TrainConfig


def ingredients(**settings: str) -> StepFingerprint:
    return StepFingerprint(
        settings=settings, code={"net.py": {"class Net": "1"}}, versions={"torch": "2.15"}, inputs={}
    )


@pytest.fixture
def run(tmp_path: Path) -> RunRef:
    folder = Runs(tmp_path / "mlruns").ready().work / "calm-otter"
    folder.mkdir()
    return RunRef(run_id="1", name="calm-otter", folder=folder, url="")


def network(run: RunRef, content: bytes = b"weights") -> NetworkRef:
    (run.folder / "initial.safetensors").write_bytes(content)
    weights = FileRef.of(run.folder / "initial.safetensors")
    return NetworkRef(reference="net.py:Net", arguments={"a": [1, None]}, weights=weights, parameters=3)


def test_what_was_kept_is_found_by_its_key_alone(run: RunRef):
    results, result = Results(Runs(run.folder.parent.parent)), network(run)
    results.keep("initialize", ingredients(seed="0"), run, result)
    found = results.find("initialize", ingredients(seed="0").key)
    assert found and found[0] == result and (found[1].run, found[1].run_name) == ("calm-otter", "calm-otter")
    assert results.find("initialize", ingredients(seed="1").key) is None
    assert results.find("fit", ingredients(seed="0").key) is None


@pytest.mark.parametrize("harm", [lambda file: file.unlink(), lambda file: file.write_bytes(b"other")])
def test_a_result_whose_file_is_gone_or_changed_is_none(run: RunRef, harm):
    results = Results(Runs(run.folder.parent.parent))
    results.keep("initialize", ingredients(seed="0"), run, network(run))
    harm(run.folder / "initial.safetensors")
    assert results.find("initialize", ingredients(seed="0").key) is None
    assert results.why("initialize", ingredients(seed="0")) == "a file of its result is gone or changed"


@pytest.mark.parametrize("rubbish", [b"", b"{", b"[]", b'{"run": 3}'])
def test_a_damaged_entry_is_as_good_as_none(run: RunRef, rubbish: bytes):
    results, key = Results(Runs(run.folder.parent.parent)), ingredients(seed="0").key
    results.keep("initialize", ingredients(seed="0"), run, network(run))
    (results.folder("initialize", key) / "result.json").write_bytes(rubbish)
    assert results.find("initialize", key) is None
    assert results.why("initialize", ingredients(seed="0")) == "for the first time"


def test_a_folder_that_was_moved_has_its_results_with_it(run: RunRef, tmp_path: Path):
    Results(Runs(tmp_path / "mlruns")).keep("initialize", ingredients(seed="0"), run, network(run))
    (tmp_path / "mlruns").rename(tmp_path / "elsewhere")
    found = Results(Runs(tmp_path / "elsewhere")).find("initialize", ingredients(seed="0").key)
    assert found and found[0].weights.path == tmp_path / "elsewhere/work/calm-otter/initial.safetensors"


def test_a_full_disk_keeps_the_result_that_was_there(run: RunRef, small_disk):
    results, key = Results(Runs(run.folder.parent.parent)), ingredients(seed="0").key
    results.keep("initialize", ingredients(seed="0"), run, network(run))
    before = (results.folder("initialize", key) / "result.json").read_bytes()
    with small_disk(100), pytest.raises(UserError, match="Cannot write"):
        results.keep("initialize", ingredients(seed="0"), run, network(run))
    assert (results.folder("initialize", key) / "result.json").read_bytes() == before
    assert not list(results.folder("initialize", key).glob(".*"))


def test_a_rename_that_fails_keeps_the_result_that_was_there(run: RunRef, monkeypatch: pytest.MonkeyPatch):
    results, key = Results(Runs(run.folder.parent.parent)), ingredients(seed="0").key
    results.keep("initialize", ingredients(seed="0"), run, network(run))

    def fail(*_: object) -> None:
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patched:
        patched.setattr(Path, "replace", fail)
        with pytest.raises(UserError, match="Input/output error"):
            results.keep("initialize", ingredients(seed="0"), run, network(run))
    assert results.find("initialize", key)


def test_the_reason_is_what_differs_from_the_result_most_like_it(run: RunRef):
    results = Results(Runs(run.folder.parent.parent))
    assert results.why("fit", ingredients(lr="1", seed="0")) == "for the first time"
    results.keep("fit", ingredients(lr="1", seed="0"), run, network(run))
    results.keep("fit", ingredients(lr="2", seed="7"), run, network(run))
    assert results.why("fit", ingredients(lr="3", seed="0")) == "lr 1 → 3"
    assert results.why("fit", ingredients(lr="3", seed="7")) == "lr 2 → 3"
    assert results.why("fit", ingredients(lr="9", seed="9")) in ("lr 2 → 9; seed 7 → 9", "lr 1 → 9; seed 0 → 9")


def test_what_follows_from_a_cause_is_not_told_besides_it():
    before = StepFingerprint(settings={"lr": "1"}, code={}, versions={}, inputs={"the weights": "a" * 64})
    both = before.model_copy(update={"settings": {"lr": "2"}, "inputs": {"the weights": "b" * 64}})
    assert before.changed_to(both) == "lr 1 → 2"
    derived = before.model_copy(update={"inputs": {"the weights": "b" * 64}})
    assert before.changed_to(derived) == "the weights changed: aaaaaaaa… → bbbbbbbb…"


def test_a_setting_that_decides_nothing_is_in_no_key():
    seldom, often = TrainConfig(checkpoint_seconds=60), TrainConfig(checkpoint_seconds=0)
    assert of_step("fit", {"config": seldom}).key == of_step("fit", {"config": often}).key
    assert of_step("fit", {"config": seldom}).key != of_step("fit", {"config": TrainConfig(lr=0.5)}).key


def test_a_network_is_the_same_wherever_its_file_is_named_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    from torchmill.components.initialization.config import ModelConfig

    folder = tmp_path / "nets"
    folder.mkdir()
    (folder / "net.py").write_text("from torch import nn\n\nclass Net(nn.Linear): ...\n")
    monkeypatch.chdir(tmp_path)
    outside = of_step("initialize", {"model": ModelConfig(name="nets/net.py:Net")})
    monkeypatch.chdir(folder)
    inside = of_step("initialize", {"model": ModelConfig(name="net.py:Net")})
    absolute = of_step("initialize", {"model": ModelConfig(name=f"{folder}/net.py:Net")})
    assert outside.key == inside.key == absolute.key
