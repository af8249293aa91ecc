"""Recipes are understood, and say at their head how they are run and what comes out."""

import re
from pathlib import Path

import pytest

from torchmill.components.config import load

RECIPES = sorted((Path(__file__).parents[1] / "recipes").glob("*.yaml"))

NOT_MEASURED = {"cifar10-fast"}


def test_the_recipes_are_there():
    names = {file.stem for file in RECIPES}
    assert names == {"mnist-fast", "mnist-best", "cifar10-fast", "names-transformer", "image-folder-transfer"}


@pytest.mark.parametrize("file", RECIPES, ids=lambda file: file.stem)
def test_a_recipe_is_understood_and_says_what_comes_out(file: Path):
    load(file)
    head = "\n".join(line for line in file.read_text().splitlines() if line.startswith("#"))
    assert f"torchmill train --config recipes/{file.name}" in head
    if file.stem in NOT_MEASURED:
        assert "Not measured yet" in head
    else:
        assert re.search(r"Test accuracy \d\d\.\d+ % \(\d\d\.\d+ to \d\d\.\d+\) over \d seeds", head)
        assert re.search(r"\d+ (s|min) ", head)
