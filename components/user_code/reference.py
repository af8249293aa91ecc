"""References to the user's code, ``file.py:Class`` and ``package.module:Class``, checked without running it."""

import ast
import contextlib
import importlib.util
import sys
from collections.abc import Generator
from pathlib import Path

from torchmill.components.errors import nearest


def check_reference(reference: str, noun: str = "class") -> None:
    """Check ``file.py:Class`` or ``package.module:Class`` as far as possible without running it.

    Args:
        noun: kind of object for errors, for example "class" or "function".

    Raises:
        ValueError: the file or module doesn't exist, is not Python, or has no such name.
    """
    place, _, name = reference.rpartition(":")
    file = source_file(place)
    try:
        tree = ast.parse(file.read_bytes(), filename=str(file))
    except SyntaxError as error:
        raise ValueError(f"{file} line {error.lineno} is not Python: {error.msg}") from None
    except OSError as error:
        raise ValueError(f"cannot read {file}: {error.strerror}") from None
    if not name.isidentifier():
        raise ValueError(f"'{name}' after the colon of '{reference}' is not the name of a {noun}")
    defined = {node.name for node in tree.body if isinstance(node, ast.ClassDef | ast.FunctionDef)}
    # Names from imports, assignments or `from x import *` can't be checked without running the file.
    elsewhere = any(not isinstance(node, ast.ClassDef | ast.FunctionDef | ast.Expr) for node in tree.body)
    mentioned = {
        alias.asname or alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    mentioned |= {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    if name not in defined and not (elsewhere and ({name, "*"} & mentioned)):
        raise ValueError(f"{file} has no {noun} '{name}'. {nearest(name, defined)}".strip())


def source_file(place: str) -> Path:
    """Return the file of a reference, from its part before the colon.

    Raises:
        ValueError: the file or module doesn't exist.
    """
    if place.endswith(".py") or "/" in place:
        file = Path(place).expanduser()
        if not file.is_file():
            beside = [str(path) for path in file.parent.glob("*.py")] if file.parent.is_dir() else []
            raise ValueError(f"no file {file}. {nearest(str(file), beside)}".strip())
        return file.absolute()
    reason = ""
    for folder in (Path.cwd(), Path.cwd() / "src"):
        if not folder.is_dir():
            continue
        with own_modules_first(folder):
            try:
                spec = importlib.util.find_spec(place)
            except Exception as error:  # looking for a.b imports a, which can fail in any way
                reason = reason or f" ({error})"
                continue
        if spec and spec.origin:
            return Path(spec.origin)
    raise ValueError(
        f"no module '{place}'{reason} in {Path.cwd()}, its folder src or the environment. "
        "For a file write path/to/file.py:Class"
    )


@contextlib.contextmanager
def own_modules_first(folder: Path) -> Generator[None]:
    """Search a folder of the user's first for modules, as Python does for a script; afterwards search it last.

    A library's later imports then never load a user's file of the same name. A folder that is on the path already
    keeps its place.
    """
    own = str(folder)
    before = sys.path.index(own) if own in sys.path else None
    sys.path[:] = [own, *(path for path in sys.path if path != own)]
    try:
        yield
    finally:
        others = [path for path in sys.path if path != own]
        others.insert(len(others) if before is None else before, own)
        sys.path[:] = others
