"""The arguments of every data set are checked by the annotations of its ``load``, before anything is read."""

import re
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from torchmill.components.data.config import DATASETS, DataConfig
from torchmill.components.data.fetch import RESERVED, arguments, fetch
from torchmill.components.errors import ConfigError
from torchmill.components.settings.options import limits_of

ARGUMENTS = [
    (name, argument)
    for name in DATASETS.names()
    for argument in DATASETS[name].source.functions["load"].values()
    if argument.name not in RESERVED
]

WRONG: dict[str, list[Any]] = {
    "int": ["many", 0.5, [3], None, True, -1, "nan"],
    "int | None": ["many", 0.5, [3], True, -1],
    "float": ["much", [0.3], None, True, -0.1, 5, float("nan"), float("inf")],
    "float | None": ["much", [0.3], True, -0.1, float("nan"), float("inf")],
    "bool": ["perhaps", 2, [True], None],
    "str": [["a"], None, True, {"a": 1}],
    "str | None": [["a"], True],
    "str | list[str]": [None, True, [True], {"a": 1}],
    "str | list[str] | None": [True, [None], {"a": 1}],
}


def named(kind: str) -> str:
    return f"{kind}:x" if "path" in DATASETS[kind].source.functions["load"] else kind


@pytest.mark.parametrize(("kind", "argument"), ARGUMENTS, ids=lambda value: getattr(value, "name", value))
def test_a_wrong_value_is_refused_before_anything_is_read(tmp_path: Path, kind: str, argument):
    kind_of = re.sub(r"Annotated\[(.*), Field\(.*", r"\1", argument.annotation)
    wrong = ["chars", 3, None, ["words"]] if kind_of.startswith("Literal") else WRONG[kind_of]
    for value in wrong:
        with pytest.raises(ValidationError, match=f"{argument.name} is"):
            DataConfig(name=named(kind), args={argument.name: value})
        with pytest.raises(ConfigError, match=f"{argument.name} is"):
            fetch(named(kind), tmp_path, args={argument.name: value})
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("kind", "argument"), ARGUMENTS, ids=lambda value: getattr(value, "name", value))
def test_the_usual_value_is_in_its_range(kind: str, argument):
    usual = DATASETS[kind].usual("load")
    config = DataConfig(name=named(kind), args={argument.name: usual[argument.name]})
    assert config.args == {argument.name: usual[argument.name]}
    is_number = "int" in argument.annotation or "float" in argument.annotation
    assert not is_number or limits_of(argument.annotation), "a number has a range"


def test_text_becomes_what_it_says():
    args = {"lower_case": "false", "max_length": "32", "test_fraction": "0.3", "label": 7, "ignore": ["a, b", "c"]}
    config = DataConfig(name="csv:x.csv", args=args)
    expected = {"lower_case": False, "max_length": 32, "test_fraction": 0.3, "label": "7", "ignore": ["a, b", "c"]}
    assert config.args == expected and expected.items() <= arguments(config).items()


def test_all_faults_are_named_at_once():
    args = {"level": "chars", "max_length": 0, "test_fraction": 5, "lable": "a"}
    with pytest.raises(ValidationError) as error:
        DataConfig(name="csv:x.csv", args=args)
    for words in (
        "level is 'chars', not one of words, characters",
        "max_length is 0, not a whole number from 1",
        "test_fraction is 5, not a number from 0.001 to 0.9",
        "csv takes no argument 'lable'. Did you mean label?",
    ):
        assert words in str(error.value)
