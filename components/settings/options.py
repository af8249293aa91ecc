"""Options found by their files: a room is a folder whose files are the options, each named by its file.

Names, arguments and help are read from the source. Nothing is imported until an option is used: torch takes seconds.
"""

import ast
import contextlib
import functools
import importlib
import importlib.util
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any, Literal, get_args, get_origin

from pydantic import ConfigDict, Field, GetCoreSchemaHandler, TypeAdapter
from pydantic_core import CoreSchema, core_schema

from torchmill.components.errors import ConfigError, nearest, unknown_argument

COMPONENTS = Path(__file__).parents[1]


@dataclass(frozen=True)
class Argument:
    """An argument of a function, as its source has it."""

    name: str
    default: str
    """Source of the default; empty if the argument is required."""
    annotation: str = ""


@dataclass(frozen=True)
class Source:
    """Facts about a Python file, read without running it."""

    summary: str
    """First line of the module's docstring."""
    constants: Mapping[str, Any]
    """Names that the module assigns literals to."""
    functions: Mapping[str, Mapping[str, Argument]]
    """Arguments by the name of the function, ``Class.method`` for a method; without ``self``."""


def read_source(file: Path) -> Source:
    """Read a file's docstring, constants and signatures; again only after the file changed.

    Raises:
        OSError: the file can't be read.
        SyntaxError, ValueError: it is not Python.
    """
    stat = file.stat()
    return _read_source(file, stat.st_mtime_ns, stat.st_size)


@functools.lru_cache(maxsize=256)
def _read_source(file: Path, _changed: int, _size: int) -> Source:
    tree = ast.parse(file.read_bytes(), filename=str(file))
    functions = {node.name: signature(node) for node in tree.body if isinstance(node, ast.FunctionDef)}
    for owner in tree.body:
        if isinstance(owner, ast.ClassDef):
            methods = (node for node in owner.body if isinstance(node, ast.FunctionDef))
            functions |= {f"{owner.name}.{node.name}": signature(node) for node in methods}
    constants = {}
    for node in tree.body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            with contextlib.suppress(ValueError):  # a value that is computed when the module runs
                constants[node.targets[0].id] = ast.literal_eval(node.value)
    return Source((ast.get_docstring(tree) or "").partition("\n")[0], constants, functions)


def signature(function: ast.FunctionDef) -> dict[str, Argument]:
    """Return the arguments of a function that can be given by name, in their order; without ``self``."""
    arguments = function.args
    positional = [*arguments.posonlyargs, *arguments.args]
    defaults = [*[None] * (len(positional) - len(arguments.defaults)), *arguments.defaults]
    pairs = [*zip(positional, defaults, strict=True), *zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True)]
    return {
        node.arg: Argument(
            node.arg, ast.unparse(default) if default else "", ast.unparse(node.annotation) if node.annotation else ""
        )
        for node, default in pairs
        if node.arg != "self"
    }


@dataclass(frozen=True)
class Option:
    """A file of a room.

    A module may limit its numbers by ``RANGES = {"gamma": (0, 100)}``: the lowest and the highest value by argument.
    """

    name: str
    file: Path

    @property
    def source(self) -> Source:
        return read_source(self.file)

    def constant(self, name: str, default: Any = None) -> Any:
        """Return a constant of the module; the default if the module has none of that name."""
        return self.source.constants.get(name, default)

    def arguments(self, function: str = "make") -> dict[str, Argument]:
        """Return the arguments with a default: those that a user may set."""
        signature = self.source.functions.get(function, {})
        return {name: argument for name, argument in signature.items() if argument.default}

    def usual(self, function: str = "make") -> dict[str, Any]:
        """Return the defaults of the arguments that a user may set."""
        return {name: ast.literal_eval(argument.default) for name, argument in self.arguments(function).items()}

    def range(self, argument: str) -> tuple[float, float] | None:
        """Return the lowest and the highest value of an argument; None if the module sets no limits."""
        return self.constant("RANGES", {}).get(argument)

    def check(self, values: Mapping[str, object], function: str = "make") -> None:
        """Check names and numbers that a user set.

        Raises:
            ValueError: there is no such argument, or its value is out of range.
        """
        arguments = self.arguments(function)
        for name, value in values.items():
            if name not in arguments:
                raise ValueError(" ".join(unknown_argument(self.name, name, arguments)))
            if limits := self.range(name):
                whole = arguments[name].annotation == "int"
                number = isinstance(value, int if whole else int | float) and not isinstance(value, bool)
                if not number or not limits[0] <= value <= limits[1]:
                    kind = "whole number" if whole else "number"
                    raise ValueError(f"{name} is {value!r}, not a {kind} from {limits[0]:g} to {limits[1]:g}")

    def validated(self, values: Mapping[str, object], function: str) -> dict[str, Any]:
        """Return values that a user set in the types of the function's annotations, as pydantic converts settings.

        Raises:
            ValueError: there is no such argument, or a value is of another type or out of range; all of them are named.
        """
        arguments = self.source.functions.get(function, {})
        converted, faults = {}, []
        for name, value in values.items():
            if name not in arguments:
                faults.append(" ".join(unknown_argument(self.name, name, arguments)).rstrip("."))
                continue
            annotation = _type_of(arguments[name].annotation)
            try:
                converted[name] = _converted(value, annotation)
            except ValueError:
                faults.append(f"{name} is {value!r}, not {_in_words(annotation)}")
        if faults:
            raise ValueError("; ".join(faults))
        return converted


ANNOTATIONS = {
    "Annotated": Annotated,
    "Field": Field,
    "Literal": Literal,
    "int": int,
    "float": float,
    "bool": bool,
    "str": str,
    "list": list,
}
"""Names that an annotation may use to be checked without an import of its module."""


def _type_of(annotation: str) -> Any:
    """Return the type of an annotation; Any if it uses other names."""
    try:
        return eval(annotation, {"__builtins__": {}}, ANNOTATIONS)  # the source of an option, which is imported anyway
    except (NameError, SyntaxError, TypeError, AttributeError):
        return Any


def _converted(value: object, annotation: Any) -> Any:
    """Return a value in a type.

    Raises:
        ValueError: it has no place there.
    """
    types = _alternatives(annotation)
    if isinstance(value, bool) and Any not in types and bool not in types:
        raise ValueError("a truth value is no number")
    settings = ConfigDict(coerce_numbers_to_str=True, allow_inf_nan=False)
    return TypeAdapter(annotation, config=settings).validate_python(value)


def _alternatives(annotation: Any) -> tuple[Any, ...]:
    """Return the types of a union, or the values of a Literal, without limits."""
    if get_origin(annotation) is Annotated:
        annotation = get_args(annotation)[0]
    return (annotation,) if get_origin(annotation) is list else get_args(annotation) or (annotation,)


def limits_of(annotation: str) -> tuple[float, float] | None:
    """Return the lowest and the highest value of an annotation, ``Annotated[int, Field(ge=1, le=8)]``; None without."""
    kind = _type_of(annotation)
    marks = [mark for field in getattr(kind, "__metadata__", ()) for mark in field.metadata]
    limits = [getattr(mark, side) for side in ("ge", "le") for mark in marks if hasattr(mark, side)]
    return (limits[0], limits[1]) if len(limits) == 2 else None


def _in_words(annotation: Any) -> str:
    """Return a type and its limits in words."""
    types = _alternatives(annotation)
    if get_origin(annotation) is Literal:
        return "one of " + ", ".join(map(str, types))
    words = {int: "a whole number", float: "a number", bool: "true or false", str: "a text"}
    parts = ["a list of texts" if get_origin(part) is list else words[part] for part in types if part is not type(None)]
    marks = [mark for field in getattr(annotation, "__metadata__", ()) for mark in field.metadata]
    limits = [f"{getattr(mark, side):g}" for side in ("ge", "le") for mark in marks if hasattr(mark, side)]
    return " or ".join(parts) + (f" from {' to '.join(limits)}" if limits else "")


@dataclass(frozen=True)
class Room:
    """A folder whose files are options.

    Files that begin with an underscore are the room's own: code that several options share.
    """

    folder: Path

    def names(self, suits: Callable[[Option], bool] = lambda _: True) -> list[str]:
        """Return the names of all options, or of those that suit."""
        files = self.folder.iterdir()  # glob takes several times as long
        names = sorted(file.stem for file in files if file.suffix == ".py" and not file.stem.startswith("_"))
        return [name for name in names if suits(self[name])]

    def __getitem__(self, name: str) -> Option:
        return Option(name, self.folder / f"{name}.py")

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and not name.startswith("_") and self[name].file.is_file()

    def load(self, name: str) -> ModuleType:
        """Import an option.

        Raises:
            ConfigError: the room has no such option.
        """
        if name not in self:
            raise ConfigError(f"Unknown '{name}'.", nearest(name, self.names()))
        if self.folder.is_relative_to(COMPONENTS):
            place = ".".join(self.folder.relative_to(COMPONENTS).parts)
            return importlib.import_module(f"torchmill.components.{place}.{name}")
        return _import_file(self[name].file)


def _import_file(file: Path) -> ModuleType:
    """Import a file from outside the package, anew each time."""
    name = f"torchmill_options.{file.parent.name}.{file.stem}"
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their module up
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


@dataclass(frozen=True)
class Listed:
    """Marks a setting whose help lists names.

    Example:
        augment: Annotated[Names, Listed(AUGMENTATIONS.names)] = ()
    """

    names: Callable[[], Sequence[str]]
    label: str = "Options"
    separator: str = ", "

    def __str__(self) -> str:
        return f"{self.label}: {self.separator.join(self.names())}."


@dataclass(frozen=True)
class OneOf(Listed):
    """Marks a setting whose value is one of the names.

    Example:
        optimizer: Annotated[str, OneOf(OPTIMIZERS.names)] = "adam"
    """

    def __get_pydantic_core_schema__(self, source: object, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.literal_schema(list(self.names()))


def with_arguments(room: Room) -> list[str]:
    """Describe the arguments of each option of a room, for example ``step factor=0.1, parts=3``."""
    shown = ((name, shown_arguments(room[name].arguments().values())) for name in room.names())
    return [f"{name} {arguments}" for name, arguments in shown if arguments]


def shown_arguments(arguments: Iterable[Argument]) -> str:
    """Write arguments with their defaults: ``width=32, depth``."""
    return ", ".join(
        f"{argument.name}={argument.default}" if argument.default else argument.name for argument in arguments
    )
