import os
import re
import resource
import statistics
import subprocess
import sys
from pathlib import Path

import pytest

from torchmill.components.config import RunConfig, fields, sections
from torchmill.components.data.config import dataset_names
from torchmill.components.errors import ConfigError
from torchmill.flows.cli import main as cli
from torchmill.flows.cli.settings import read_config

REPOSITORY = Path(__file__).parents[3]
HEAVY = ("torch", "prefect", "mlflow")
COMMANDS = (
    "train",
    "check",
    "find-lr",
    "up",
    "schedule",
    "repair",
    "reproduce",
    "join",
    "predict",
    "promote",
    "rollback",
    "models",
    "datasets",
)


def config(*arguments: str) -> RunConfig:
    """What a command line asks for, without doing it."""
    return read_config(cli.make_parser().parse_args(["train", *arguments]))


def complaint(*arguments: str) -> str:
    with pytest.raises(ConfigError) as raised:
        cli.run(list(arguments))
    assert "\n" not in str(raised.value) and raised.value.exit_code == 2
    return str(raised.value)


def run(*arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    code = (
        "import atexit, sys; from torchmill.flows.cli.main import main;"
        f"atexit.register(lambda: print('HEAVY', *[name for name in {HEAVY} if name in sys.modules]));"
        "main(sys.argv[1:])"
    )
    return subprocess.run(
        [sys.executable, "-c", code, *arguments],
        capture_output=True,
        text=True,
        cwd=folder,
        env={**os.environ, "TORCHMILL_RUNS": ""},
    )


def test_an_option_for_every_field_and_a_short_one_for_what_has_a_name():
    assert config() == RunConfig()
    assert config("--data", "mnist", "--model=simple_cnn", "--initialize", "none").initialize.name == "none"
    options = set(cli.make_parser().parser_of("train").option_names())
    assert {f"--{name}" for name in fields()} <= options
    for section in sections():
        assert f"--{section}.name" not in options or f"--{section}" in options


def test_what_is_given_arrives():
    taken = config(
        "--data", "mnist", "--data.validation-fraction", "0.2", "--train.lr=1e-2", "--train.batch-size=8",
        "--model.args", '{"image_size": 28}', "--export.batch-sizes=1,3", "--seed", "7", "--train.patience", "none",
    )  # fmt: skip
    assert (taken.data.name, taken.data.validation_fraction) == ("mnist", 0.2)
    assert (taken.train.lr, taken.train.batch_size, taken.train.patience) == (0.01, 8, None)
    assert (taken.model.args, taken.export.batch_sizes, taken.seed) == ({"image_size": 28}, (1, 3), 7)


def test_hyphens_are_for_the_name_of_an_option_and_leave_its_value():
    assert config("--name=a-b.c", "--device", "cuda:1").name == "a-b.c"
    assert config("--model=torchmill.components.models.simple_cnn:SimpleCNN").model.name.endswith(":SimpleCNN")


def test_an_option_wins_over_the_file(tmp_path):
    (tmp_path / "run.yaml").write_text("data: mnist\ntrain: {epochs: 7, lr: 0.5}\n")
    taken = config("--config", str(tmp_path / "run.yaml"), "--train.epochs", "2", "--data.validation-fraction=0.3")
    assert (taken.train.epochs, taken.train.lr, taken.data.name, taken.data.validation_fraction) == (
        2,
        0.5,
        "mnist",
        0.3,
    )


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["trian"], "Unknown command 'trian'. Did you mean train?"),
        (["train", "--train.epoch", "3"], "Unknown option --train.epoch. Did you mean --train.epochs"),
        (["train", "--train.batchsize=3"], "--train.batch_size"),
        (["train", "--epochs", "3"], "--train.epochs"),
        (["train", "--data", "mnits"], "unknown data set 'mnits'. Did you mean mnist"),
        (["train", "--train.optimizer", "adm"], "train.optimizer: unknown 'adm'. Did you mean adam"),
        (["train", "--train.lr"], "Argument --train.lr: expected one argument. See torchmill train --help."),
        (["train", "--train.epochs", "0"], "train.epochs"),
        (["train", "--config", "missing.yaml"], "Cannot read missing.yaml"),
        (["up", "--mlflow-port", "many"], "Argument --mlflow-port: invalid int value: 'many'"),
        (["train", "--js"], "Unknown option --js."),
        (
            ["check", "--check.level", "off"],
            "--check.level off is for train: this command always checks. Say quick or full.",
        ),
    ],
)
def test_a_mistype_is_answered_in_a_line_with_what_was_meant(arguments, said):
    assert said in complaint(*arguments)


def test_nothing_to_do_shows_the_help_and_counts_as_a_mistake(capsys):
    assert cli.run([]) == 2
    shown = capsys.readouterr().out
    assert cli.run(["--help"]) == 0
    assert capsys.readouterr().out == shown
    assert all(command in shown for command in COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_a_help(command, capsys):
    with pytest.raises(SystemExit) as left:
        cli.run([command, "--help"])
    assert left.value.code == 0
    assert f"usage: torchmill {command}" in capsys.readouterr().out


def shown_by(capsys, *arguments: str) -> str:
    with pytest.raises(SystemExit) as left:
        cli.run(list(arguments))
    assert left.value.code == 0
    return capsys.readouterr().out


def test_the_whole_help_of_train_tells_every_field_with_its_text_and_default(capsys):
    shown = " ".join(shown_by(capsys, "train", "--help-all").split())
    for name, (_, text, _) in fields().items():
        assert f"--{name} " in shown and text.rstrip(".") in shown, name
    assert "adam, adamw, sgd, rmsprop, adadelta, muon; default: adam" in shown


def test_the_networks_and_data_sets_are_listed_with_a_line_on_each(capsys):
    assert cli.run(["models"]) == 0
    assert re.search(r"^simple_cnn +The reference network", capsys.readouterr().out, re.MULTILINE)
    assert cli.run(["datasets"]) == 0
    listed, own = capsys.readouterr().out.split("\n\n")
    described = dict(line.split(maxsplit=1) for line in listed.splitlines() if line[0] != " ")
    assert {name.partition(":")[0] for name in described} == set(dataset_names())
    assert all(len(text.split()) > 3 for text in described.values())
    assert "max_length=" in listed and own.startswith("Your own: --data path/to/file.py:function")


@pytest.mark.parametrize(
    ("arguments", "code"),
    [(["--help"], 0), (["train", "--help"], 0), (["models"], 0), (["datasets"], 0), (["train", "--data", "mnits"], 2)],
)
def test_who_asks_or_mistypes_waits_for_nothing_heavy_and_gets_no_traceback(arguments, code, tmp_path):
    done = run(*arguments, folder=tmp_path)
    assert done.returncode == code and "Traceback" not in done.stderr
    assert done.stdout.splitlines()[-1].strip() == "HEAVY"
    assert (len(done.stderr.splitlines()), list(tmp_path.iterdir())) == (code // 2, [])


def _seconds(arguments: list[str]) -> float:
    """Processor time of a Python process, median of three."""
    times = []
    for _ in range(3):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL, cwd=REPOSITORY)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        times.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    return statistics.median(times)


@pytest.mark.slow
def test_help_costs_less_than_a_third_of_importing_torch():
    assert _seconds(["-m", "torchmill.flows.cli.main", "--help"]) < _seconds(["-c", "import torch"]) / 3


@pytest.mark.parametrize("words", [["--runs", "here", "models"], ["models"]])
def test_the_place_of_runs_may_stand_before_the_command(words, monkeypatch, capsys):
    monkeypatch.delenv("TORCHMILL_RUNS", raising=False)
    assert cli.run(words) == 0 and "simple_cnn" in capsys.readouterr().out
    assert os.environ.pop("TORCHMILL_RUNS", None) == ("here" if len(words) > 1 else None)


def test_the_place_of_runs_before_the_command_is_kept_by_it():
    parser = cli.make_parser()
    assert parser.parse_args(["--runs", "here", "train"]).runs == "here"
    assert parser.parse_args(["train", "--runs", "there"]).runs == "there"
    assert parser.parse_args(["train"]).runs is None
