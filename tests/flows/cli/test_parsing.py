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
    "evaluate",
    "report",
    "compare",
    "train",
    "check",
    "data",
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


def test_the_entries_of_a_json_setting_are_options_too():
    taken = config(
        "--data=csv:x.csv", "--data.args.label", "size", "--data.args.max-length=32", "--train.optimizer-args.eps=1e-6",
        "--train.schedule_args", '{"rise": 0.1}', "--train.schedule_args.end=0.5",
        "--initialize.rules.my-layer.*", "orthogonal", "--train.lr_factors.a.b", "0.1",
    )  # fmt: skip
    assert taken.data.args == {"label": "size", "max_length": 32}
    assert taken.train.optimizer_args == {"eps": 1e-6}
    assert taken.train.schedule_args == {"rise": 0.1, "end": 0.5}
    assert taken.initialize.rules == {"my-layer.*": "orthogonal"} and taken.train.lr_factors == {"a.b": 0.1}


def test_yaml_takes_entries_nested_or_dotted_and_options_add_to_them(tmp_path):
    (tmp_path / "run.yaml").write_text(
        "model: custom_backward\nmodel.args.width: 48\n"
        "train:\n  optimizer_args: {eps: 1e-6}\n  schedule_args.end: 0.5\n"
        'train.lr: 0.5\ndata:\n  name: csv:x.csv\n  args.label: "48"\n'
    )
    taken = config("--config", str(tmp_path / "run.yaml"), "--model.args.num_classes", "3")
    assert (taken.model.name, taken.model.args) == ("custom_backward", {"width": 48, "num_classes": 3})
    assert (taken.train.optimizer_args, taken.train.schedule_args) == ({"eps": 1e-6}, {"end": 0.5})
    assert (taken.train.lr, taken.data.args) == (0.5, {"label": "48"})  # what YAML calls text stays text


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
        (["train", "--js"], "Unknown option --js. Did you mean --json?"),
        (["train", "--batch-size", "3"], "Did you mean --train.batch_size"),
        (["train", "--learning-rate", "3"], "Did you mean --train.lr?"),
        (["train", "--zzz"], "Unknown option --zzz. See torchmill train --help-all."),
        (["train", "mnist"], "Unexpected argument 'mnist'. See torchmill train --help."),
        (["predict"], "Missing: MODEL, INPUT. Usage: torchmill predict MODEL INPUT… [options]"),
        (
            ["train", "--model", "custom_backward", "--model.args.widht=3"],
            "takes no argument 'widht'. Did you mean width?",
        ),
        (["train", "--model.args", '{"widht": 3}'], "simple_cnn takes no argument 'widht'."),
        (
            ["train", "--data", "csv:x.csv", "--data.args.target", "a"],
            "no argument 'target'. Did you mean label?",
        ),
        (["train", "--train.optimizer_args.epz", "1"], "adam takes no argument 'epz'. Did you mean eps?"),
        (["train", "--model.args.width"], "Argument --model.args.width: expected one argument."),
        (["up", "--no-prewarmed"], "Unknown option --no-prewarmed. Did you mean --no-prewarm?"),
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
    assert "adadelta, adam, adamw, muon, rmsprop, sgd; default: adam" in shown


def test_the_first_page_of_the_help_is_a_page_with_the_commonest_options_first(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    shown = shown_by(capsys, "train", "--help")
    assert len(shown.splitlines()) < 45
    names = re.findall(r"^  (?:-h, )?(--[\w.-]+)", shown, re.MULTILINE)
    assert names[:7] == [
        *("--data", "--model", "--train.epochs", "--train.lr", "--train.batch_size", "--device", "--name"),
    ]
    assert {"--fresh", "--explain", "--json", "--config", "--runs", "--help-all"} <= set(names) and len(names) < 20


def test_the_usage_shows_what_has_to_be_there(capsys):
    for command, usage in (
        ("predict", "MODEL INPUT… [options]"),
        ("promote", "MODEL [VERSION] [options]"),
        ("compare", "RUN OTHER_RUN [options]"),
        ("up", "[options]"),
    ):
        assert shown_by(capsys, command, "--help").startswith(f"usage: torchmill {command} {usage}\n")


def test_a_former_name_of_an_option_is_understood_and_not_shown(capsys):
    parse = cli.make_parser().parse_args
    assert parse(["up", "--no-standby"]).no_prewarm and parse(["up", "--no-prewarm"]).no_prewarm
    assert "standby" not in shown_by(capsys, "up", "--help")


@pytest.mark.parametrize("columns", ["60", "80", "120"])
def test_every_help_fits_the_terminal(columns, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", columns)
    for command in cli.make_parser().commands:
        lines = shown_by(capsys, command, "--help").splitlines()
        assert all(len(line) <= int(columns) for line in lines), command


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
