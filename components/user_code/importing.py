"""Import of the user's own code from any folder, with errors that name the line in it."""

import ast
import importlib
import importlib.util
import sys
import traceback
from pathlib import Path
from types import ModuleType

from torchmill.components.errors import UserError
from torchmill.components.user_code.reference import own_modules_first, source_file

_imported: set[str] = set()
"""Names of the user's packages that were imported for a file in them."""


def import_from(place: str) -> ModuleType:
    """Import ``path/to/file.py`` or ``package.module``; a file can import the modules beside it.

    A file with relative imports is imported as a module of the package around it.

    Raises:
        UserError: the module doesn't exist or its import fails.

    Example:
        >>> network = import_from("networks/mine.py").MyNet  # doctest: +SKIP
    """
    try:
        file = source_file(place)
    except ValueError as error:
        raise UserError(str(error)) from None
    try:
        if not place.endswith(".py"):
            folder = file.parents[place.count(".") + (file.name == "__init__.py")]
            with own_modules_first(folder):
                return importlib.import_module(place)
        if dots := _dots(file):
            return _import_member(file, dots)
        name = "torchmill_user." + "".join(letter if letter.isalnum() else "_" for letter in str(file.with_suffix("")))
        spec = importlib.util.spec_from_file_location(name, file)
        assert spec and spec.loader
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module  # dataclasses and inspect look it up
        with own_modules_first(file.parent):  # the file can import the modules beside it
            spec.loader.exec_module(module)
        return module
    except UserError:
        raise
    except (Exception, SystemExit) as error:  # the user's code can fail in any way, and may read sys.argv
        raise UserError(f"{place} does not import: {first_hand(error)}", missing_module(error)) from error


def _dots(file: Path) -> int:
    """Return the most leading dots of a file's relative imports; 0 if it has none."""
    nodes = ast.walk(ast.parse(file.read_bytes(), filename=str(file)))
    return max((node.level for node in nodes if isinstance(node, ast.ImportFrom)), default=0)


def _import_member(file: Path, dots: int) -> ModuleType:
    """Import a file as ``package.module``, with as many parent packages as its imports reach."""
    package, depth = file.parent, 1
    while depth < dots or (package.parent / "__init__.py").is_file():
        package, depth = package.parent, depth + 1
    name = ".".join(file.relative_to(package.parent).with_suffix("").parts).removesuffix(".__init__")
    if package.name in _imported:
        _forget(package, name)
    with own_modules_first(file.parent), own_modules_first(package.parent):
        top = importlib.import_module(package.name)
        if str(package) not in map(str, top.__path__ if hasattr(top, "__path__") else ()):
            raise UserError(
                f"{file} belongs to the package '{package.name}' by its relative imports, and another of that name "
                f"is imported already: {getattr(top, '__file__', top)}.",
                f"Rename the folder {package}.",
            )
        _imported.add(package.name)
        return importlib.import_module(name)


def _forget(package: Path, name: str) -> None:
    """Drop a module from ``sys.modules``, and its whole package if that was imported from another folder."""
    imported = sys.modules.get(package.name)
    elsewhere = imported is not None and str(package) not in map(str, imported.__path__)
    for module in list(sys.modules):
        if module == name or (elsewhere and f"{module}.".startswith(f"{package.name}.")):
            del sys.modules[module]


def first_hand(error: BaseException) -> str:
    """Return an error in one line, with the last line of the user's code that led to it."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if _is_users(frame.filename)]
    place = f" ({Path(frames[-1].filename).name} line {frames[-1].lineno})" if frames else ""
    if isinstance(error, SyntaxError) and error.filename:
        place = f" ({Path(error.filename).name} line {error.lineno})"
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}{place}"


def missing_module(error: BaseException) -> str:
    """Return the remedy for a missing module; empty for any other error."""
    if not isinstance(error, ModuleNotFoundError) or not error.name:
        return ""
    top = error.name.partition(".")[0]
    return f"Install the package that provides '{top}' into the environment {sys.prefix}, or put it beside the file."


def _is_users(filename: str) -> bool:
    return not (
        filename.startswith("<") or "site-packages" in filename or Path(__file__).parents[1] in Path(filename).parents
    )
