"""The README says what is true: its paths, commands, snippets, output and numbers."""

import json
import re
import shlex
from pathlib import Path

import pytest

from benchmarks.__main__ import PARTS
from benchmarks.tables import MARKS, readme_table, results_page
from torchmill.components.config import RunConfig
from torchmill.flows.cli.main import make_parser
from torchmill.flows.cli.settings import read_config

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
COMMANDS = re.findall(r"`(?:\.venv/bin/)?(torchmill [a-z](?:(?!--help)[^`])*)`", README)
RESULTS = json.loads((ROOT / "benchmarks" / "results.json").read_text(encoding="utf-8"))


def snippets(language: str) -> list[str]:
    return [text for name, text in BLOCKS if name == language]


def test_it_is_short():
    lines = README.splitlines()
    assert len(lines) <= 150
    assert not [line for line in lines if len(line) > 100 and not line.startswith("|")]


def test_its_links_lead_somewhere():
    links = re.findall(r"\]\(([^)#]+)\)", README)
    assert links and not [link for link in links if not (ROOT / link).exists()]


def test_its_tree_is_there():
    (tree,) = (text for _, text in BLOCKS if "flows/train.py" in text)
    paths = [word for line in tree.splitlines() for word in line.split() if "/" in word]
    assert len(paths) > 10
    folders = [ROOT, ROOT / "components", ROOT / "flows"]
    assert not [path for path in paths if not any((folder / path.strip(";,")).exists() for folder in folders)]


def test_its_make_targets_exist():
    targets = set(re.findall(r"(?:`|\$ )make ([a-z]+)", README))
    assert targets >= {"run", "test", "bench"}
    assert targets <= set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))


@pytest.mark.parametrize("command", COMMANDS)
def test_its_commands_are_understood(command: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    (tmp_path / "net.py").write_text(snippets("python")[0])
    monkeypatch.chdir(tmp_path)
    _, *words = shlex.split(command)
    assert_understood(words)


def test_it_has_ten_daily_commands():
    names = {shlex.split(command)[1] for command in COMMANDS}
    assert names >= {
        "train",
        "check",
        "find-lr",
        "up",
        "schedule",
        "report",
        "compare",
        "predict",
        "reproduce",
        "repair",
    }


def test_its_environment_variables_are_read_somewhere():
    code = "".join(file.read_text() for part in ("flows", "components") for file in (ROOT / part).rglob("*.py"))
    names = set(re.findall(r"\b(?:TORCHMILL|PREFECT|MLFLOW)_[A-Z_]+\b", README))
    assert all(name in code for name in names)


def test_its_figures_are_those_that_were_measured():
    begin, end = MARKS
    table = README.partition(begin)[2].partition(end)[0].strip()
    assert table == readme_table(RESULTS, PARTS)
    assert (ROOT / "benchmarks" / "RESULTS.md").read_text(encoding="utf-8") == results_page(RESULTS, PARTS)
    rows = sum(len(RESULTS[part]["claims"]) for part in PARTS)
    assert len(re.findall(r": \d+\.\d\d", table)) == rows  # the unfavourable ones as well


def assert_understood(words: list[str]) -> None:
    options = make_parser().parse_args(words)
    if words[0] in ("train", "schedule"):
        assert isinstance(read_config(options), RunConfig)
