"""The README says what is true: its paths are there, and its commands are understood."""

import re
import shlex
from pathlib import Path

import pytest

from torchmill.components import config
from torchmill.flows.cli import main as cli
from torchmill.flows.cli.settings import read_config

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
COMMANDS = [line.split("#")[0].strip() for line in README.splitlines() if line.startswith(".venv/bin/torchmill")]


def test_it_is_short():
    assert len(README.splitlines()) < 150


def test_its_links_lead_somewhere():
    links = re.findall(r"\]\(([^)#]+)\)", README)
    assert links and not [link for link in links if not (ROOT / link).exists()]


def test_its_make_targets_exist():
    targets = set(re.findall(r"`?make ([a-z]+)`?", README))
    assert targets >= {"run", "test", "setup", "bench"}
    assert targets <= set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))


@pytest.mark.parametrize("command", COMMANDS)
def test_its_commands_are_understood(command: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(ROOT)
    _, *words = shlex.split(command)
    options = cli.make_parser().parse_args(words)
    if words[0] in ("train", "schedule"):
        assert isinstance(read_config(options), config.RunConfig)


def test_there_are_commands():
    assert {shlex.split(command)[1] for command in COMMANDS} == {
        "train",
        "check",
        "find-lr",
        "up",
        "schedule",
        "reproduce",
        "rollback",
        "predict",
        "repair",
    }


def test_its_environment_variables_are_read_somewhere():
    code = "".join(file.read_text() for part in ("flows", "components") for file in (ROOT / part).rglob("*.py"))
    names = set(re.findall(r"\b(?:TORCHMILL|PREFECT|MLFLOW)_[A-Z_]+\b", README))
    assert names and all(name in code for name in names)
