"""What can be named, with its arguments: read from the source, nothing imported."""

import ast
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

COMPONENTS = Path(__file__).parents[2] / "components"

FROM_DATA = {
    "images": ("in_channels", "image_size", "image_height", "image_width"),
    "tokens": ("vocab_size", "padding_index", "max_length"),
    "numbers": ("in_features",),
}
"""Arguments that the data knows, by the kind of inputs that a network which asks for them takes."""


@dataclass(frozen=True)
class Entry:
    """A network or a data set that can be named."""

    reference: str
    text: str
    """The first line of what it says of itself."""
    takes: str
    """Kinds of inputs of a network."""
    arguments: str
    """With their defaults."""


def network(name: str) -> Entry:
    """Describe the network in ``components/models/NAME.py``."""
    tree = _parsed(COMPONENTS / "models" / f"{name}.py")
    wanted = name.replace("_", "")
    classes = (node for node in tree.body if isinstance(node, ast.ClassDef))
    found = next(node for node in classes if node.name.lower() == wanted)
    init = next(node for node in found.body if isinstance(node, ast.FunctionDef) and node.name == "__init__")
    arguments = _arguments(init)
    known = {"num_classes", *(name for names in FROM_DATA.values() for name in names)}
    own = {name: default for name, default in arguments.items() if name not in known}
    return Entry(name, _first_line(tree), " or ".join(kinds(arguments)), _shown(own) or "no arguments")


def kinds(arguments: Iterable[str]) -> list[str]:
    """Kinds of inputs that a network with these arguments takes."""
    return [kind for kind, marks in FROM_DATA.items() if set(marks) & set(arguments)]


def data_set(name: str) -> Entry:
    """Describe the data set in ``components/data/datasets/NAME.py``."""
    tree = _parsed(COMPONENTS / "data" / "datasets" / f"{name}.py")
    load = next(node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == "load")
    arguments = _arguments(load)
    reference = f"{name}:PATH" if "path" in arguments else name
    own = {name: default for name, default in arguments.items() if name not in ("path", "downloads")}
    own.pop("validation_fraction", None)  # a setting of its own
    return Entry(reference, _first_line(tree), "", _shown(own))


def _parsed(file: Path) -> ast.Module:
    return ast.parse(file.read_text(encoding="utf-8"))


def _first_line(tree: ast.Module) -> str:
    return (ast.get_docstring(tree) or "").partition("\n")[0]


def _arguments(function: ast.FunctionDef) -> dict[str, str]:
    """Names with their defaults as they are written; empty where there is none."""
    names = [argument.arg for argument in function.args.args if argument.arg != "self"]
    defaults = [ast.unparse(value) for value in function.args.defaults]
    found = dict.fromkeys(names, "") | dict(zip(names[len(names) - len(defaults) :], defaults, strict=True))
    keywords = zip(function.args.kwonlyargs, function.args.kw_defaults, strict=True)
    return found | {argument.arg: ast.unparse(value) if value else "" for argument, value in keywords}


def _shown(arguments: dict[str, str]) -> str:
    return ", ".join(f"{name}={default}" if default else name for name, default in arguments.items())
