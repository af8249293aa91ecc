"""The sources of the user's code: a file, its imports from the same tree, and its libraries.

Files are parsed, never imported or run.
"""

import ast
import functools
import hashlib
import os
import pkgutil
import re
import sys
import warnings
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib import metadata
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from typing import NamedTuple

MODULE_LEVEL = "module level"

# Search paths of the packages around a module, from the outermost to its own; each further dot of `..` drops one.
Trail = tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class SourceCode:
    """Files, definitions and libraries of a piece of code, independent of the tree's place and the current folder."""

    files: dict[str, Path]
    """Paths by name under the tree's root, for example ``blocks/conv.py``; outside of the root by module path."""
    definitions: dict[str, dict[str, str]]
    """Digests of ``class MyNet``, ``def f`` or ``module level``, by the same file names.

    Comments, docstrings and formatting don't count. The digest of the module level has two parts: one of the
    statements, one of their order among the definitions.
    """
    libraries: dict[str, str]
    """Versions of imported distributions outside of the tree, by name; without the standard library."""


def closure(file: Path, root: Path | None = None, *, beside: Sequence[Path] = ()) -> SourceCode:
    """Follow the imports of a file through the user's own tree, as Python would if Torchmill ran the file.

    Imports count in functions and under an ``if``, except ``if TYPE_CHECKING``. Imports that lead nowhere are no
    error. Imports by a name computed at run time are not seen. The user's own code excludes the standard library,
    compiled modules and installed distributions. It includes single files in site-packages without a distribution,
    and the package of ``file``, installed or not.

    Args:
        root: folder that names are relative to, and one more place to search for modules, for packages without
            ``__init__.py``. The default, also if the file is not under ``root``, is the folder around its package.
        beside: further files of the tree, read in the same search.

    Raises:
        OSError: a file can't be read.
        SyntaxError, ValueError, RecursionError: ``file`` can't be parsed. An imported file that can't be parsed counts
            by its bytes.
    """
    search = _Search(file, root)
    for further in beside:
        search.add(further)
    definitions: dict[str, dict[str, str]] = {}
    seen = set()
    while search.waiting:
        path, trail = search.waiting.pop()
        if (path, trail) in seen:
            continue
        seen.add((path, trail))
        source = path.read_bytes()
        try:
            module = _read(source)
        except (SyntaxError, ValueError, RecursionError):
            if path == search.file:
                raise
            module = _Module((), {MODULE_LEVEL: _digest(source)})
        definitions[search.name(path, trail)] = dict(module.definitions)
        for level, names in module.imports:
            search.follow(trail, level, names)
    return SourceCode(
        files=dict(sorted(search.files.items())),
        definitions=dict(sorted(definitions.items())),
        libraries=dict(sorted(search.libraries.items())),
    )


def changes(before: Mapping[str, Mapping[str, str]], now: Mapping[str, Mapping[str, str]]) -> list[tuple[str, str]]:
    """Return the differences of two ``definitions``: file and ``class MyNet``, ``def f is new`` or ``is gone``."""
    differences = []
    for file in sorted({*before, *now}):
        if file not in before or file not in now:
            differences.append((file, "is gone" if file in before else "is new"))
        else:
            differences += [(file, change) for change in _differences(before[file], now[file])]
    return differences


def _differences(before: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    names = [name for name in sorted({*before, *now}) if before.get(name) != now.get(name)]
    if len(names) > 1 and MODULE_LEVEL in names:
        statements = [digests.get(MODULE_LEVEL, "").partition("/")[0] for digests in (before, now)]
        if statements[0] == statements[1]:  # a new or removed definition implies a new order
            names.remove(MODULE_LEVEL)
    return [
        name if name in before and name in now else f"{name} is {'gone' if name in before else 'new'}" for name in names
    ]


class _Search:
    """A search through imports: its results so far, and the files that it still has to read."""

    def __init__(self, file: Path, root: Path | None):
        folder = file.parent.resolve()
        self.file = folder / file.name
        around = folder
        while (around / "__init__.py").is_file():
            around = around.parent
        start = root.resolve() if root else around
        self.root = start if folder.is_relative_to(start) else around
        self.files: dict[str, Path] = {}
        self.libraries: dict[str, str] = {}
        self._folders = _trail(folder)
        self.waiting: list[tuple[Path, Trail]] = []
        self.add(file)
        self._package = around / self.file.relative_to(around).parts[0]
        elsewhere = (str(around), str(self.root), "", *sys.path)  # "" is the current folder
        # A file in a package may run by its path, with its own folder first, or as a module: both count.
        self._places = [(str(folder), *elsewhere)] if around == folder else [(str(folder),), elsewhere]
        self._tops: dict[str, list[Trail]] = {}
        self._modules: dict[tuple[Trail, str], ModuleSpec | None] = {}
        self._resolved: dict[str, Path] = {}
        PathFinder.invalidate_caches()  # its cache misses files written right after its last look at a folder

    def add(self, file: Path) -> None:
        """Queue a file and the packages around it; the file is read first."""
        folder = file.parent.resolve()
        package = folder
        while (package / "__init__.py").is_file():
            self.waiting.append((package / "__init__.py", _trail(package)))
            package = package.parent
        self.waiting.append((folder / file.name, _trail(folder)))

    def name(self, path: Path, trail: Trail) -> str:
        """Return and record a name for a file that doesn't depend on the tree's place."""
        if path.is_relative_to(self.root) or trail[:1] == self._folders[:1]:  # what `..` finds can lie beside the root
            name = Path(os.path.relpath(path, self.root)).as_posix()
        else:
            name = "/".join(path.parts[-len(trail) - 1 :])
        while self.files.setdefault(name, path) != path:
            name = f"other/{name}"
        return name

    def follow(self, trail: Trail, level: int, names: tuple[str, ...]) -> None:
        """Add every module on the way of an import in a module with this trail."""
        if level == 0:
            for inside in self._top(names[0]):
                self._descend(inside, names[1:])
        elif level <= len(trail):
            self._descend(trail[: len(trail) - level + 1], names)

    def _descend(self, trail: Trail, names: tuple[str, ...]) -> None:
        for name in names:
            if name == "*":  # `__all__` may name any of them
                for module in pkgutil.iter_modules(trail[-1]):
                    self._descend(trail, (module.name,))
                return
            spec = self._module(trail, name)
            if spec is None:  # a class or the like
                return
            trail = self._enter(spec, trail)

    def _module(self, trail: Trail, name: str) -> ModuleSpec | None:
        """Find a module in a package; most are imported by many others, and each look asks the file system."""
        if (trail, name) not in self._modules:
            self._modules[trail, name] = PathFinder.find_spec(name, trail[-1])
        return self._modules[trail, name]

    def _enter(self, spec: ModuleSpec, trail: Trail) -> Trail:
        inside = (*trail, tuple(spec.submodule_search_locations or ()))
        if spec.origin and spec.origin.endswith(".py"):
            # A checkout finds Torchmill's own modules by a link; resolved paths make them the same files.
            if spec.origin not in self._resolved:
                self._resolved[spec.origin] = Path(spec.origin).resolve()
            self.waiting.append((self._resolved[spec.origin], inside if inside[-1] else trail))
        return inside

    def _top(self, name: str) -> list[Trail]:
        if name not in self._tops:
            self._tops[name] = [self._enter(spec, ()) for spec in self._specs(name) if self._is_own(spec)]
        return self._tops[name]

    def _specs(self, name: str) -> list[ModuleSpec]:
        specs = [PathFinder.find_spec(name, places) for places in self._places]
        if not any(specs):  # an editable install may have its own finder
            for finder in sys.meta_path:
                with suppress(ImportError, AttributeError):  # an outdated one finds nothing
                    specs.append(finder.find_spec(name, None))
        return [spec for spec in specs if spec]

    def _is_own(self, spec: ModuleSpec) -> bool:
        """Return True if a module is the user's own; record it as a library otherwise.

        A package without ``__init__.py`` can have several folders: only the user's own stay in ``spec``.
        """
        own = []
        for place in map(Path, spec.submodule_search_locations or [spec.origin or ""]):
            site = next((folder for folder in place.parents if folder.name in ("site-packages", "dist-packages")), None)
            if site and not place.is_relative_to(self._package):
                top = place.relative_to(site).parts[0].split(".")[0]
                distributions = _distributions(site, site.stat().st_mtime_ns, top)
                self.libraries |= distributions
                if distributions:
                    continue
            if not place.is_relative_to(_STANDARD_LIBRARY) or site:
                own.append(str(place))
        if spec.submodule_search_locations is not None:
            spec.submodule_search_locations = own
        return bool(own)


def _trail(folder: Path) -> Trail:
    return tuple((str(place),) for place in reversed((folder, *folder.parents)))


_STANDARD_LIBRARY = Path(os.__file__).parent


@functools.lru_cache(maxsize=512)
def _distributions(site: Path, changed: int, top: str) -> dict[str, str]:
    return {distribution.name: distribution.version for distribution in _owners(site, changed).get(top, ())}


@functools.lru_cache(maxsize=8)
def _owners(site: Path, changed: int) -> dict[str, list[metadata.Distribution]]:
    """Return the distributions by top-level name; `metadata.packages_distributions` takes ten times as long."""
    owners: dict[str, list[metadata.Distribution]] = {}
    for distribution in metadata.distributions(path=[str(site)]):
        lines = (distribution.read_text("RECORD") or distribution.read_text("top_level.txt") or "").splitlines()
        for top in {re.split("[/.,]", line, maxsplit=1)[0] for line in lines}:
            owners.setdefault(top, []).append(distribution)
    return owners


_DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


class _Module(NamedTuple):
    imports: tuple[tuple[int, tuple[str, ...]], ...]
    """Number of dots, and the names after them; `from a import b` counts as `import a.b`."""
    definitions: Mapping[str, str]


@functools.lru_cache(maxsize=512)
def _read(source: bytes) -> _Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Python shows them again when it runs the code
        tree = ast.parse(source)
    imports: list[tuple[int, tuple[str, ...]]] = []
    nodes = list(ast.walk(tree))
    never_run = {id(inner) for node in nodes if _is_for_type_checkers(node) for inner in ast.walk(node)}
    for node in nodes:
        if id(node) in never_run:
            continue
        if isinstance(node, ast.Import):
            imports += [(0, tuple(alias.name.split("."))) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            before = node.module.split(".") if node.module else ()
            imports += [(node.level, (*before, alias.name)) for alias in node.names]
        elif isinstance(node, _DOCUMENTED) and ast.get_docstring(node, clean=False) is not None:
            node.body = node.body[1:]
    try:
        definitions = _definitions(tree)
    except RecursionError:  # an expression of hundreds of terms
        definitions = {MODULE_LEVEL: _digest(source)}
    return _Module(tuple(dict.fromkeys(imports)), definitions)


def _is_for_type_checkers(node: ast.AST) -> bool:
    """Return True for ``if TYPE_CHECKING:`` without an else: its imports don't happen at run time."""
    if not isinstance(node, ast.If) or node.orelse:
        return False
    name = node.test.attr if isinstance(node.test, ast.Attribute) else getattr(node.test, "id", "")
    return name == "TYPE_CHECKING"


def _definitions(tree: ast.Module) -> dict[str, str]:
    taking = _TakeOut()
    taking.visit(tree)
    order = ast.dump(tree)
    statements = ast.dump(_Forget().visit(tree))
    digests = {name: _digest("\n".join(parts).encode()) for name, parts in taking.definitions.items()}
    return {**digests, MODULE_LEVEL: f"{_digest(statements.encode())}/{_digest(order.encode())}"}


class _TakeOut(ast.NodeTransformer):
    """Takes classes and functions out of a module, also from under an ``if``, and leaves a mark in their place."""

    def __init__(self) -> None:
        self.definitions: dict[str, list[str]] = {}

    def _take(self, node: ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) -> ast.Global:
        name = f"{'class' if isinstance(node, ast.ClassDef) else 'def'} {node.name}"
        self.definitions.setdefault(name, []).append(ast.dump(node))
        return ast.Global([name])

    visit_ClassDef = visit_FunctionDef = visit_AsyncFunctionDef = _take


class _Forget(ast.NodeTransformer):
    """Removes the marks of ``_TakeOut``: their names alone contain a space."""

    def visit_Global(self, node: ast.Global) -> ast.Global | None:
        return None if " " in node.names[0] else node


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]
