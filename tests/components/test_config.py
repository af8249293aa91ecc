import contextlib
import os
import subprocess
import sys
import tracemalloc
import typing
from pathlib import Path

import pytest
from pydantic import ValidationError

from torchmill.components import config as configuration
from torchmill.components.config import RunConfig, fields, load, parse, sections
from torchmill.components.data.config import DATASETS, DataConfig, dataset_names
from torchmill.components.errors import ConfigError
from torchmill.components.initialization.config import field_model_names, model_names
from torchmill.components.user_code.reference import check_reference

FIELDS = fields()


def complaint(text: str | bytes | None = None, overrides: dict[str, str] | None = None, *, folder: Path) -> str:
    """What is said against a YAML file and overrides; it is one line."""
    file = None
    if text is not None:
        file = folder / "run.yaml"
        file.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ConfigError) as raised:
        load(file, overrides)
    assert raised.value.exit_code == 2
    said = str(raised.value)
    assert "\n" not in said and "Traceback" not in said
    return said


@pytest.mark.parametrize(
    ("dotted", "meant"),
    [
        ("tain", "train"),
        ("train.epoch", "train.epochs"),
        ("train.learning_rate", "train.lr"),
        ("lr", "train.lr"),
        ("epochs", "train.epochs"),
        ("batch_size", "train.batch_size"),
        ("batch_size", "evaluate.batch_size"),
        ("train.tolerance", "export.tolerance"),
        ("export.tolerence", "export.tolerance"),
        ("data.validation", "data.validation_fraction"),
        ("initialise", "initialize"),
        ("sede", "seed"),
    ],
)
def test_an_unknown_key_is_answered_with_the_right_one(tmp_path, dotted, meant):
    said = complaint(overrides={dotted: "1"}, folder=tmp_path)
    assert f"unknown key '{dotted}'" in said
    assert meant in said.partition("Did you mean ")[2].partition("?")[0].split(" or ")


@pytest.mark.parametrize(
    ("key", "wrong", "meant"),
    [
        ("data", "mnits", "mnist"),
        ("data.name", "fashion-mnist", "fashion_mnist"),
        ("model", "simplecnn", "simple_cnn"),
        ("initialize", "xavier", "xavier_normal"),
        ("initialize.name", "kaiming", "kaiming_normal"),
        ("train.optimizer", "adamm", "adam"),
        ("train.schedule", "onecycle", "one_cycle"),
        ("train.channels_last", "of", "off"),
        ("promote.mode", "atuo", "auto"),
        ("device", "cud", "cuda"),
    ],
)
def test_an_unknown_name_is_answered_with_the_right_one(tmp_path, key, wrong, meant):
    said = complaint(overrides={key: wrong}, folder=tmp_path)
    assert said.startswith(key.partition(".")[0]) and f"'{wrong}'" in said
    assert meant in said.partition("Did you mean ")[2].partition("?")[0].split(" or ")


def test_several_mistakes_are_told_at_once(tmp_path):
    said = complaint("train: {epochs: 0, lr: -1}\nsede: 3", folder=tmp_path)
    assert all(part in said for part in ("train.epochs", "train.lr", "'sede'", "run.yaml"))


def test_an_option_wins_over_the_file_and_leaves_the_rest_of_it(tmp_path):
    file = tmp_path / "run.yaml"
    file.write_text("data: mnist\nseed: 3\ntrain: {epochs: 7, lr: 1e-2}\n")
    config = load(file, {"train.epochs": "2", "data.validation_fraction": "0.25"})
    assert (config.train.epochs, config.train.lr, config.seed) == (2, 0.01, 3)
    assert (config.data.name, config.data.validation_fraction) == ("mnist", 0.25)


@pytest.mark.parametrize("order", [1, -1])
def test_a_short_name_does_not_drop_the_other_fields_of_its_section(tmp_path, order):
    file = tmp_path / "run.yaml"
    file.write_text("data: {name: mnist, validation_fraction: 0.3}")
    assert load(file, {"data": "kmnist"}).data == DataConfig(name="kmnist", validation_fraction=0.3)
    both = dict([("data", "kmnist"), ("data.validation_fraction", "0.2")][::order])
    assert load(None, both).data == DataConfig(name="kmnist", validation_fraction=0.2)


def test_an_empty_file_is_the_default(tmp_path):
    (tmp_path / "run.yaml").write_text("# nothing\n")
    assert load(tmp_path / "run.yaml") == RunConfig() == load()


def test_on_and_off_mean_in_a_file_what_they_mean_on_the_command_line(tmp_path):
    for word in ("on", "off"):  # YAML makes booleans of them
        (tmp_path / "run.yaml").write_text(f"train: {{channels_last: {word}}}")
        assert load(tmp_path / "run.yaml") == load(None, {"train.channels_last": word})


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("train: [1", "line 1, column 10 is not YAML"),
        ("a: 1\n b: 2", "line 2, column 3 is not YAML"),
        ("a: 2020-99-99", "is not YAML: month must be in 1..12"),
        (b"a: \x00", "is not YAML"),
        (b"name: \xff\xfe", "not UTF-8"),
        ("- data", "holds a list, not keys with values"),
        ("mnist", "holds a str, not keys with values"),
        ("1: 2", "keys should be strings"),
        ("train: 3", "train: input should be a valid dictionary"),
        ("train:", "train: input should be a valid dictionary"),
        ('name: !!python/object/apply:os.getcwd ["."]', "not YAML"),
    ],
)
def test_a_file_that_is_no_configuration_is_told_in_a_line(tmp_path, text, said):
    assert said in complaint(text, folder=tmp_path)


def test_a_file_that_cannot_be_read_is_told_in_a_line(tmp_path):
    for place in (tmp_path / "missing.yaml", tmp_path):
        with pytest.raises(ConfigError, match=f"Cannot read {place}"):
            load(place)


LAUGHS = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 9)
)
"""A billion values in 400 bytes."""


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        (LAUGHS, "repeats itself through aliases into more than 100,000 values"),
        ("train: &t\n  loss_args: *t\n", "repeats itself"),
        ("# " + "x" * 1_000_001, "is larger than 1,000,000 bytes"),
    ],
)
def test_a_file_that_would_fill_the_memory_is_refused(tmp_path, text, complaint):
    (tmp_path / "run.yaml").write_text(text)
    tracemalloc.start()
    with pytest.raises(ConfigError, match=complaint):
        load(tmp_path / "run.yaml")
    assert tracemalloc.get_traced_memory()[1] < 50e6
    tracemalloc.stop()


def test_aliases_are_fine(tmp_path):
    (tmp_path / "run.yaml").write_text("model: {name: mlp, args: &sizes {width: 8}}\ntrain: {loss_args: *sizes}\n")
    assert load(tmp_path / "run.yaml").train.loss_args == {"width": 8}


@pytest.mark.skipif(not Path("/dev/zero").exists(), reason="there is no /dev/zero")
def test_what_has_no_end_is_no_file(tmp_path):
    os.mkfifo(tmp_path / "fifo")
    for place, kind in ((tmp_path / "fifo", "a pipe"), (Path("/dev/zero"), "a device"), (tmp_path, "a folder")):
        with pytest.raises(ConfigError, match=f"Cannot read {place}: it is {kind}"):
            load(place)


def test_every_field_says_what_it_is():
    for name, (_, text, _) in FIELDS.items():
        assert text.endswith(".") and len(text) > 9, name


NO_OBJECT = ["{width: 3}", "{", "'a'", "[1]", "3", ""]
NONSENSE = {
    "data.args": NO_OBJECT,
    "task.name": ["segmentaton", "", "task.py:Missing"],
    "task.args": NO_OBJECT,
    "data.leakage_limit": ["-0.1", "1.1", "nan", "some"],
    "data.allow_leakage": ["perhaps", "2"],
    "model.args": NO_OBJECT,
    "initialize.rules": [*NO_OBJECT, '{"fc.*": "xavier"}', '{"fc.*": "lsuv"}', '{"fc.*": 1}'],
    "initialize.bias": ["much", "nan", "inf"],
    "train.loss": ["entropy", "", "loss.py:Missing", ":Loss"],
    "train.loss_args": NO_OBJECT,
    "train.auxiliary_weight": ["-1", "11", "nan"],
    "train.lr_factors": NO_OBJECT,
    "train.optimizer_args": [*NO_OBJECT, '{"beta": [0.9, 0.99]}', '{"momentum": 0.9}'],
    "train.schedule_args": [
        *(*NO_OBJECT, '{"stop": 0.1}', '{"end": 0}', '{"rise": 1}', '{"rise": "long"}', '{"start": true}'),
        *('{"end": NaN}', '{"patience": 3}'),
    ],
    "export.budget": ["-0.1", "1.1", "nan", "little"],
    "train.machines": ["0", "-1", "1.5", "many"],
    "train.rendezvous": ["host", "host:", ":29500", "host:port", "a b:1"],
    "train.processes": ["0", "-1", "1.5", "many", ""],
    "train.profile": ["perhaps", "2"],
    "train.warmup": ["-0.1", "1", "nan", "0.1"],
    "train.layer_decay": ["0", "1.1", "nan"],
    "train.clip": ["", "1", "norm", "norm:", "norm:-1", "norm:much", "size:1"],
    "train.augment": ["shfit", "shift:-1", "flip:2", "crop:0", "shift:", "shift;flip", "none:1"],
    "train.mixup": ["-0.1", "11", "nan"],
    "train.cutmix": ["-0.1", "11", "nan"],
    "data.validation_fraction": ["0", "1", "0.9", "-0.1", "nan", "inf", "much"],
    "train.epochs": ["0", "-1", "1.5", "100001", "nan", ""],
    "train.batch_size": ["0", "-8", "1e9"],
    "train.lr": ["0", "-0.1", "nan", "inf", "1001", "fast"],
    "train.momentum": ["-0.1", "1", "nan"],
    "train.weight_decay": ["-1", "11", "nan"],
    "train.patience": ["0", "-1", "soon"],
    "train.ema": ["0", "1", "-0.9", "nan", "much"],
    "train.checkpoint_seconds": ["-1", "nan", "often"],
    "evaluate.batch_size": ["0"],
    "export.tolerance": ["0", "-1", "1.1", "nan", "inf"],
    "export.batch_sizes": ["", "0", "1,0", "65537", "1,,2", "a"],
    "export.batch": ["0", "-1", "65537", "1.5", "a"],
    "export.opset": ["16", "24", "20.5", "new"],
    "export.register_as": ["", "a/b", "../a", "a b", "a" * 101],
    "promote.margin": ["0", "1", "-0.1", "nan", "some"],
    "promote.confidence": ["0.4", "1", "95", "nan", "high"],
    "device": ["", "gpu", "cuda:", "cuda:-1", "cpu:0", "cuda:0 "],
    "seed": ["-1", str(2**32), "1.5", "nan"],
    "name": ["", "../a", "a/b", "a" * 101, " a"],
}


@pytest.mark.parametrize(("key", "value"), [(key, value) for key, values in NONSENSE.items() for value in values])
def test_nonsense_is_refused_by_the_name_of_its_field(tmp_path, key, value):
    assert key in complaint(overrides={key: value}, folder=tmp_path)


def test_there_is_a_test_of_nonsense_for_every_field_that_could_hold_it():
    named = {name for name, (annotation, _, _) in FIELDS.items() if typing.get_origin(annotation) is typing.Literal}
    assert set(FIELDS) - named - set(NONSENSE) == {"data.name", "model.name", "model.weights", "model.freeze"}


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ({}, "one process has no other to shard with"),
        ({"train.processes": "2", "train.optimizer": "muon"}, "does not support optimizer muon"),
        ({"train.processes": "2", "train.compile": "on"}, "does not support compile on"),
    ],
)
def test_what_a_split_network_does_not_bear_is_told(tmp_path, setting, words):
    assert words in complaint(overrides={"train.shard": "on", **setting}, folder=tmp_path)


def test_machines_that_have_nowhere_to_meet_are_told_so(tmp_path):
    told = complaint(overrides={"train.machines": "2"}, folder=tmp_path)
    assert told == "train.rendezvous: several machines need HOST:PORT of the first one"
    assert load(None, {"train.machines": "2", "train.rendezvous": "node-0:29500"}).train.machines == 2


def test_what_makes_sense_is_taken():
    overrides = {
        "train.patience": "none",
        "export.batch_sizes": "1, 3",
        "device": "cuda:1",
        "name": "my run-1.2",
        "export.register_as": "a.b-c_1",
        "model.args": '{"width": 3, "sizes": [1, 2]}',
        "train.lr": "1e-3",
        "train.augment": "flip, shift:3",
        "train.clip": "agc:1e-2",
        "train.loss_args": '{"weight": "balanced"}',
        "model.freeze": "features.*,layer1.*",
        "model.weights": "none",
    }
    config = load(None, overrides)
    assert (config.train.patience, config.export.batch_sizes, config.train.lr) == (None, (1, 3), 0.001)
    assert config.model.args == {"width": 3, "sizes": [1, 2]}
    assert (config.train.augment, config.train.loss_args) == (("flip", "shift:3"), {"weight": "balanced"})
    assert (config.model.freeze, config.model.weights) == (("features.*", "layer1.*"), None)


@pytest.mark.parametrize("text", NO_OBJECT)
def test_arguments_that_are_no_json_object_are_told_with_an_example_or_a_type(tmp_path, text):
    said = complaint(overrides={"model.args": text}, folder=tmp_path)
    assert "model.args: " in said and ("write it like '{\"width\": 48}'" in said or "valid dictionary" in said)


def test_a_configuration_cannot_be_changed():
    config = RunConfig()
    for section, field in ((config, "seed"), (config.train, "lr"), (config.data, "name")):
        with pytest.raises(ValidationError, match="frozen"):
            setattr(section, field, 1)


def test_flat_names_are_those_of_the_options_and_load_to_the_same():
    config = parse({"train": {"patience": 3, "lr": 0.1 + 0.2}, "model": {"args": {"a": {"b": [1]}}}, "name": "x"})
    flat = config.flat()
    assert set(flat) == set(FIELDS)
    assert load(None, flat) == config


def test_a_model_is_registered_under_data_and_class_unless_told_otherwise(tmp_path):
    (tmp_path / "net.py").write_text("class Net: pass")
    assert RunConfig().registered_name == "digits-simple_cnn"
    assert load(None, {"model": f"{tmp_path}/net.py:Net", "data": "mnist"}).registered_name == "mnist-Net"
    assert load(None, {"export.register_as": "mine"}).registered_name == "mine"


def test_everything_that_can_be_named_is_found_by_its_file():
    folder = Path(configuration.__file__).parent
    every = {*model_names(), *field_model_names()}
    assert {"simple_cnn", "unet"} <= every == {file.stem for file in (folder / "models").glob("[a-z]*.py")}
    for name in every:
        assert parse({"model": name}).model.name == name
    for name in dataset_names():
        takes_path = "path" in DATASETS[name].source.functions["load"]
        whole = f"{name}:some/where" if takes_path else name
        assert parse({"data": whole}).data.name == whole
        with pytest.raises(ConfigError, match=f"'{name}' needs a path: {name}:PATH" if takes_path else "takes no path"):
            parse({"data": name if takes_path else f"{name}:some/where"})
    assert set(sections()) == {"data", "task", "model", "initialize", "check", "train", "evaluate", "export", "promote"}


def test_a_reference_to_nothing_is_told_with_what_is_there(tmp_path):
    file = tmp_path / "my_network.py"
    file.write_text("class MyNetwork:\n    pass\n\ndef make():\n    pass\n")
    with pytest.raises(ValueError, match=r"no file .*my_netwrk\.py\. Did you mean .*my_network\.py\?"):
        check_reference(f"{tmp_path}/my_netwrk.py:MyNetwork")
    with pytest.raises(ValueError, match=r"no class 'MyNetwrok'. Did you mean MyNetwork"):
        check_reference(f"{file}:MyNetwrok")
    with pytest.raises(ValueError, match="not the name of a class"):
        check_reference(f"{file}:")
    file.write_text("x = 1\nclass Broken(:\n")
    with pytest.raises(ValueError, match=r"my_network\.py line 2 is not Python"):
        check_reference(f"{file}:Broken")
    file.write_bytes(b"\x00\xff")
    with pytest.raises(ValueError, match=r"is not Python|null bytes"):
        check_reference(f"{file}:Broken")
    for place in (
        "no_such_package.module",
        "torchmill.components.models.nothing",
        "torchmill.components.models.simple_cnn.deeper",
    ):
        with pytest.raises(ValueError, match=f"no module '{place}'"):
            check_reference(f"{place}:A")
    with pytest.raises(ValueError, match="Did you mean SimpleCNN"):
        check_reference("torchmill.components.models.simple_cnn:SimpleCN")


def test_a_mistyped_reference_is_told_as_a_configuration_error(tmp_path):
    (tmp_path / "net.py").write_text("class Net: pass")
    assert "Did you mean Net?" in complaint(overrides={"model": f"{tmp_path}/net.py:Nett"}, folder=tmp_path)
    assert f"Write {tmp_path}/net.py:Net." in complaint(overrides={"model": f"{tmp_path}/net.py"}, folder=tmp_path)


@pytest.mark.parametrize(
    "text",
    [
        "from somewhere import Net",
        "from somewhere import Other as Net",
        "from somewhere import *",
        "import somewhere\nNet = somewhere.Other",
        "if True:\n    class Other: pass\n    Net = Other",
        "def Net():\n    pass",
    ],
)
def test_a_class_that_may_come_by_other_ways_is_let_through(tmp_path, text):
    (tmp_path / "net.py").write_text(text)
    check_reference(f"{tmp_path / 'net.py'}:Net")


def test_checking_a_reference_does_not_run_the_file(tmp_path):
    (tmp_path / "net.py").write_text("raise SystemExit('ran')\nclass Net: pass")
    check_reference(f"{tmp_path / 'net.py'}:Net")


def test_a_package_that_fails_when_imported_is_told_in_a_line(tmp_path, monkeypatch):
    (tmp_path / "failing_package").mkdir()
    (tmp_path / "failing_package" / "__init__.py").write_text("1 / 0")
    monkeypatch.syspath_prepend(tmp_path)
    assert "failing_package.net" in complaint(overrides={"model": "failing_package.net:Net"}, folder=tmp_path)


@pytest.mark.parametrize(
    "module",
    [
        "torchmill.components.config",
        "torchmill.components.refs",
        "torchmill.components.errors",
        "torchmill.components.runs.folders",
    ],
)
def test_configuration_and_references_import_nothing_heavy(module):
    code = f"import sys, {module}; print(*{{'torch', 'numpy', 'prefect', 'mlflow'}} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=dict(os.environ))
    assert (done.stdout.strip(), done.stderr, done.returncode) == ("", "", 0)


@pytest.mark.parametrize("name", ["model.args", "initialize.rules", "model.args.width"])
def test_a_value_that_is_nested_too_deep_is_told_or_taken_as_text(name: str):
    with contextlib.suppress(ConfigError):
        load(overrides={name: '{"a":' * 5000 + "1" + "}" * 5000})
