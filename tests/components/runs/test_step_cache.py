"""The step cache finds a result by its key if its files are unchanged, even after the folder was moved."""

import json
from pathlib import Path

import pytest

from torchmill.components.errors import UserError
from torchmill.components.refs import FileRef, NetworkRef, RunRef
from torchmill.components.runs.fingerprint import StepFingerprint, of_step
from torchmill.components.runs.folders import Runs
from torchmill.components.runs.step_cache import StepCache
from torchmill.components.training.config import TrainConfig


def fingerprint(**settings: str) -> StepFingerprint:
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


def test_a_stored_result_is_found_by_its_step_and_key(run: RunRef):
    results, result = StepCache(Runs(run.folder.parent.parent)), network(run)
    results.store("initialize", fingerprint(seed="0"), run, result)
    entry = results.find("initialize", fingerprint(seed="0").key)
    assert entry and entry[0] == result and (entry[1].run, entry[1].run_name) == ("calm-otter", "calm-otter")
    assert results.find("initialize", fingerprint(seed="1").key) is None
    assert results.find("fit", fingerprint(seed="0").key) is None


@pytest.mark.parametrize("harm", [lambda file: file.unlink(), lambda file: file.write_bytes(b"other")])
def test_a_result_with_a_missing_or_changed_file_is_not_found(run: RunRef, harm):
    results = StepCache(Runs(run.folder.parent.parent))
    results.store("initialize", fingerprint(seed="0"), run, network(run))
    harm(run.folder / "initial.safetensors")
    assert results.find("initialize", fingerprint(seed="0").key) is None
    assert results.explain("initialize", fingerprint(seed="0")) == "a file of its result is gone or changed"


@pytest.mark.parametrize("damaged", [b"", b"{", b"[]", b'{"run": 3}'])
def test_a_damaged_entry_counts_as_missing(run: RunRef, damaged: bytes):
    results, key = StepCache(Runs(run.folder.parent.parent)), fingerprint(seed="0").key
    results.store("initialize", fingerprint(seed="0"), run, network(run))
    (results.folder("initialize", key) / "result.json").write_bytes(damaged)
    assert results.find("initialize", key) is None
    assert results.explain("initialize", fingerprint(seed="0")) == "for the first time"


def test_results_are_found_after_the_folder_was_moved(run: RunRef, tmp_path: Path):
    StepCache(Runs(tmp_path / "mlruns")).store("initialize", fingerprint(seed="0"), run, network(run))
    (tmp_path / "mlruns").rename(tmp_path / "elsewhere")
    entry = StepCache(Runs(tmp_path / "elsewhere")).find("initialize", fingerprint(seed="0").key)
    assert entry and entry[0].weights.path == tmp_path / "elsewhere/work/calm-otter/initial.safetensors"


def test_a_full_disk_keeps_the_earlier_result(run: RunRef, small_disk):
    results, key = StepCache(Runs(run.folder.parent.parent)), fingerprint(seed="0").key
    results.store("initialize", fingerprint(seed="0"), run, network(run))
    before = (results.folder("initialize", key) / "result.json").read_bytes()
    with small_disk(100), pytest.raises(UserError, match="Cannot write"):
        results.store("initialize", fingerprint(seed="0"), run, network(run))
    assert (results.folder("initialize", key) / "result.json").read_bytes() == before
    assert not list(results.folder("initialize", key).glob(".*"))


def test_a_failed_rename_keeps_the_earlier_result(run: RunRef, monkeypatch: pytest.MonkeyPatch):
    results, key = StepCache(Runs(run.folder.parent.parent)), fingerprint(seed="0").key
    results.store("initialize", fingerprint(seed="0"), run, network(run))

    def fail(*_: object) -> None:
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patched:
        patched.setattr(Path, "replace", fail)
        with pytest.raises(UserError, match="Input/output error"):
            results.store("initialize", fingerprint(seed="0"), run, network(run))
    assert results.find("initialize", key)


def test_the_reason_is_the_difference_from_the_most_similar_result(run: RunRef):
    results = StepCache(Runs(run.folder.parent.parent))
    assert results.explain("fit", fingerprint(lr="1", seed="0")) == "for the first time"
    results.store("fit", fingerprint(lr="1", seed="0"), run, network(run))
    results.store("fit", fingerprint(lr="2", seed="7"), run, network(run))
    assert results.explain("fit", fingerprint(lr="3", seed="0")) == "lr 1 → 3"
    assert results.explain("fit", fingerprint(lr="3", seed="7")) == "lr 2 → 3"
    assert results.explain("fit", fingerprint(lr="9", seed="9")) in ("lr 2 → 9; seed 7 → 9", "lr 1 → 9; seed 0 → 9")


def test_a_changed_input_is_left_out_if_a_setting_explains_it():
    before = StepFingerprint(settings={"lr": "1"}, code={}, versions={}, inputs={"the weights": "a" * 64})
    both = before.model_copy(update={"settings": {"lr": "2"}, "inputs": {"the weights": "b" * 64}})
    assert before.changed_to(both) == "lr 1 → 2"
    derived = before.model_copy(update={"inputs": {"the weights": "b" * 64}})
    assert before.changed_to(derived) == "the weights changed: aaaaaaaa… → bbbbbbbb…"


def test_a_setting_that_decides_nothing_is_not_in_the_key():
    seldom, often = TrainConfig(checkpoint_seconds=60), TrainConfig(checkpoint_seconds=0)
    assert of_step("fit", {"config": seldom}).key == of_step("fit", {"config": often}).key
    assert of_step("fit", {"config": seldom}).key != of_step("fit", {"config": TrainConfig(lr=0.5)}).key


def test_the_key_does_not_depend_on_how_a_file_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
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


def test_an_entry_of_an_earlier_version_is_found(run: RunRef):
    cache, key = StepCache(Runs(run.folder.parent.parent)), fingerprint(seed="0").key
    cache.store("initialize", fingerprint(seed="0"), run, network(run))
    file = cache.folder("initialize", key) / "result.json"
    entry = json.loads(file.read_text())
    file.write_text(json.dumps(entry | {"ingredients": entry.pop("fingerprint"), "made": entry.pop("created")}))
    assert "fingerprint" not in file.read_text()
    assert cache.find("initialize", key)
    assert cache.explain("initialize", fingerprint(seed="1")) == "seed 0 → 1"
