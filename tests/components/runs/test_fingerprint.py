import re

import pytest

from torchmill.components.config import load
from torchmill.components.data.config import DataConfig
from torchmill.components.runs import fingerprint
from torchmill.components.training.config import TrainConfig

ROOMS = ("optimizers", "schedules", "losses", "augmentation")


def options_of(**settings: object) -> set[str]:
    """Options whose code is in the fingerprint of a training."""
    code = fingerprint.of_step("fit", {"config": TrainConfig.model_validate(settings)}).code
    return {name for file in code for room, name in re.findall(r"/(\w+)/([a-z]\w*)\.py$", file) if room in ROOMS}


def test_a_training_depends_on_the_code_of_its_options_and_on_no_others():
    usual = {"adam", "one_cycle", "cross_entropy", "bce", "mse"}
    assert options_of() == usual
    assert options_of(loss="focal", optimizer="muon", schedule="plateau", augment=["rotate:3", "flip"]) == {
        *("focal", "muon", "plateau", "rotate", "flip"),
    }


def test_first_weights_depend_on_the_code_of_their_schemes():
    config = load(None, {"initialize": "lsuv", "initialize.rules": '{"fc.*": "whitening"}'})
    code = fingerprint.of_step("initialize", {"config": config.initialize}).code
    schemes = {file.rpartition("/")[2] for file in code if "/schemes/" in file}
    assert schemes == {"__init__.py", "lsuv.py", "whitening.py"}


def test_a_named_data_set_is_part_of_fetching_and_the_users_function_in_its_place(tmp_path):
    (tmp_path / "mine.py").write_text("def data():\n    return 1\n")
    digits = fingerprint.of_step("fetch", {"config": DataConfig(name="digits")}).code
    own = fingerprint.of_step("fetch", {"config": DataConfig(name=f"{tmp_path}/mine.py:data")}).code
    assert "components/data/datasets/digits.py" in digits and "mine.py" not in digits
    assert "mine.py" in own and not [file for file in own if file.startswith("components/data/datasets/")]


def test_another_cut_of_the_splits_makes_another_key():
    """An interrupted run of another version is begun anew, rather than resumed with other training samples."""
    for step, arguments in (("inspect", {}), ("fit", {"config": TrainConfig()}), ("evaluate", {}), ("promote", {})):
        code = fingerprint.of_step(step, arguments).code
        assert {"components/data/splits.py", "components/data/content.py"} <= code.keys(), step
        assert "def cut" in code["components/data/splits.py"], step


def test_a_file_of_ours_that_is_not_there_is_an_error(monkeypatch):
    monkeypatch.setitem(fingerprint.CODE, "fit", (*fingerprint.CODE["fit"], "components/training/gone.py"))
    with pytest.raises(FileNotFoundError, match=r"gone\.py"):
        fingerprint.of_step("fit", {"config": TrainConfig()})
    with pytest.raises(FileNotFoundError, match=r"gone\.py"):
        fingerprint.our_source()


def test_our_source_covers_every_option():
    assert {option.stem for room in fingerprint.ROOMS for option in room.folder.glob("[a-z]*.py")} >= {
        *("adam", "muon", "cosine", "huber", "orthogonal", "erase"),
    }
    assert len(fingerprint.our_source()) == 16


def test_another_version_of_torchmill_is_one_change_and_not_a_list_of_its_files():
    code = {f"components/training/part_{number}.py": {"def fit": "1"} for number in range(9)}
    before = fingerprint.StepFingerprint(
        settings={}, code=code | {"net.py": {"class Net": "1"}}, versions={}, inputs={}
    )
    now = before.model_copy(update={"code": {"components/fit.py": {"def fit": "1"}, "net.py": {"class Net": "2"}}})
    assert before.changed_to(now) == "Torchmill itself changed, 10 of its files; net.py changed: class Net"
    few = before.model_copy(update={"code": {**before.code, "components/training/part_3.py": {"def fit": "2"}}})
    assert before.changed_to(few) == "components/training/part_3.py changed: def fit"
