"""Who may import whom, how large a file may be, and what importing may do."""

import ast
import os
import subprocess
import sys
from collections import Counter
from functools import cache
from pathlib import Path

import pytest

from torchmill.components import fields, tasks

REPOSITORY = Path(__file__).parents[1]
FILES = sorted(
    path.relative_to(REPOSITORY) for part in ("components", "flows") for path in (REPOSITORY / part).rglob("*.py")
)
MODULES = {"torchmill." + ".".join(path.with_suffix("").parts).removesuffix(".__init__"): path for path in FILES}

LINES, FUNCTION_LINES = 400, 60
LONG_FUNCTIONS: dict[str, str] = {
    "components/training/fit.py fit": "the training loop is read as one: what happens between two steps, in order",
}
"""Functions that splitting would make harder to follow, with the reason."""

LOOSE = {"config.py", "refs.py", "errors.py", "files.py", "processes.py", "wording.py"}
"""Files of components/ that lie in no room, since every room uses them."""

LIGHT = ["torchmill.components.config", "torchmill.components.refs", "torchmill.components.runs.claim"]


@cache
def tree(file: Path) -> ast.Module:
    return ast.parse((REPOSITORY / file).read_bytes())


@cache
def imported(file: Path) -> frozenset[str]:
    """Return everything that a file imports, at its head or in a function, as dotted names."""
    names = set()
    for node in ast.walk(tree(file)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file} line {node.lineno}: a relative import, which this test does not follow"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return frozenset(names)


def importers(module: str) -> set[str]:
    """Return the files that import a module or something in it."""
    return {
        str(file) for file in FILES if any(name == module or name.startswith(f"{module}.") for name in imported(file))
    }


def modules_imported(file: Path) -> set[str]:
    """Return the modules of ours that a file imports as it runs, also within functions."""
    for_type_checkers = set()
    for block in ast.walk(tree(file)):
        if isinstance(block, ast.If) and ast.unparse(block.test) == "TYPE_CHECKING":
            for node in ast.walk(block):
                if isinstance(node, ast.ImportFrom):
                    for_type_checkers |= {f"{node.module}.{alias.name}" for alias in node.names}
    modules = {name if name in MODULES else name.rpartition(".")[0] for name in imported(file) - for_type_checkers}
    return modules & MODULES.keys()


def circle(graph: dict[str, set[str]]) -> list[str]:
    """Return the nodes of a circle in a graph, in order; none if there is no circle."""
    done: set[str] = set()

    def visit(node: str, path: list[str]) -> list[str]:
        if node in path:
            return [*path[path.index(node) :], node]
        if node in done:
            return []
        for following in sorted(graph.get(node, ())):
            if nodes := visit(following, [*path, node]):
                return nodes
        done.add(node)
        return []

    return next((nodes for start in sorted(graph) if (nodes := visit(start, []))), [])


def python(code: str, folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        cwd=folder,
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1", **environment},
    )


def test_prefect_is_imported_in_flows_alone():
    assert importers("prefect") and all(file.startswith("flows/") for file in importers("prefect"))


def test_mlflow_is_imported_in_one_room():
    assert importers("mlflow") and all(file.startswith("components/tracking/") for file in importers("mlflow"))


def test_components_know_nothing_of_flows():
    assert not [file for file in importers("torchmill.flows") if file.startswith("components/")]


def test_tracking_is_imported_by_flows_alone():
    users = {file for file in importers("torchmill.components.tracking") if not file.startswith("components/tracking/")}
    assert users and all(file.startswith("flows/") for file in users)


def test_modules_are_imported_by_their_one_name():
    """`components.x` beside `torchmill.components.x` would be a second copy of a module."""
    strays = importers("components") | importers("flows")
    for file in [*(REPOSITORY / "tests").rglob("*.py"), *(REPOSITORY / "benchmarks").rglob("*.py")]:
        if {"components", "flows"} & {name.partition(".")[0] for name in imported(file.relative_to(REPOSITORY))}:
            strays.add(str(file))
    assert not strays


def test_no_modules_import_each_other_in_a_circle():
    assert not circle({module: modules_imported(file) - {module} for module, file in MODULES.items()})


def test_no_rooms_import_each_other_in_a_circle():
    """Rooms are the folders of components/; its loose files belong to all of them."""
    rooms = {module: file.parts[1] for module, file in MODULES.items() if len(file.parts) > 2}
    rooms = {module: room for module, room in rooms.items() if MODULES[module].parts[0] == "components"}
    graph: dict[str, set[str]] = {}
    for module, room in rooms.items():
        graph.setdefault(room, set()).update(rooms[other] for other in modules_imported(MODULES[module]) & rooms.keys())
    assert not circle({room: others - {room} for room, others in graph.items()})


def test_a_circle_is_seen():
    assert circle({"a": {"b"}, "b": {"c"}, "c": {"b"}}) == ["b", "c", "b"]
    assert circle({"a": {"b", "c"}, "b": {"c"}, "c": set()}) == []


def test_no_module_is_named_after_nothing():
    words = {"utils", "util", "helpers", "helper", "common", "manager", "base", "misc", "core", "lib"}
    assert not [str(path) for path in FILES if words & {path.stem, *path.parent.parts}]


def test_nothing_lies_loose():
    loose = {path.name for path in FILES if path.parent == Path("components")} - {"__init__.py"}
    assert loose == LOOSE and len(loose) <= 6


def test_files_of_tests_have_names_of_their_own():
    """Pytest imports each by its name alone."""
    names = Counter(file.name for file in (REPOSITORY / "tests").rglob("test_*.py"))
    assert [name for name, count in names.items() if count > 1] == []


def test_files_are_short():
    long = {str(file): len((REPOSITORY / file).read_bytes().splitlines()) for file in FILES}
    assert not {file: lines for file, lines in long.items() if lines > LINES}


def test_functions_are_short():
    long = {}
    for file in FILES:
        for node in ast.walk(tree(file)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                lines = (node.end_lineno or 0) - node.lineno + 1
                if lines > FUNCTION_LINES:
                    long[f"{file} {node.name}"] = lines
    assert long.keys() == LONG_FUNCTIONS.keys(), long


def test_the_walls_are_seen_where_they_are_broken(tmp_path):
    """The tests above would see an import within a function, and one of a part of a package."""
    file = tmp_path / "file.py"
    file.write_text("def f():\n    import mlflow.tracking\n    from prefect import task\n")
    assert imported(file) == {"mlflow.tracking", "prefect.task"}


SETTINGS = [module for module, file in MODULES.items() if file.name == "config.py"]


@pytest.mark.services
@pytest.mark.parametrize("module", [*SETTINGS, *LIGHT])
def test_settings_and_references_import_no_torch_by_any_way(module, tmp_path):
    done = python(f"import sys, {module}; print({{'torch', 'prefect', 'mlflow'}} & set(sys.modules))", tmp_path)
    assert (done.stdout, done.stderr) == ("set()\n", "")


@pytest.mark.services
def test_importing_does_no_work(tmp_path):
    """No file appears, nothing is said, no thread and no process begins, and chance stays as it was."""
    entry_points = {name for name in MODULES if name.endswith("__main__")}
    modules = sorted(MODULES.keys() - entry_points)
    plain = [name for name in modules if not name.startswith(("torchmill.flows", "torchmill.components.tracking"))]
    code = f"""
import importlib, random, threading
random_state = random.getstate()
for name in {plain!r}:
    importlib.import_module(name)
assert threading.active_count() == 1, threading.enumerate()
assert random.getstate() == random_state
for name in {modules!r}:
    importlib.import_module(name)
"""
    home = tmp_path / "home"
    folder = tmp_path / "empty"
    home.mkdir()
    folder.mkdir()
    environment = {"HOME": str(home), "PREFECT_HOME": str(home / "prefect"), "MPLCONFIGDIR": str(tmp_path / "mpl")}
    done = python(code, folder, TORCHMILL_RUNS="", TORCHMILL_DATA="", XDG_CACHE_HOME="", **environment)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert list(folder.iterdir()) == []
    # Prefect makes its own home, whoever imports it.
    theirs = ("prefect",)
    made = [path.relative_to(home).as_posix() for path in home.rglob("*") if path.is_file()]
    assert [path for path in made if not path.startswith(theirs)] == []


def processor_seconds(code: str, folder: Path) -> float:
    """Processor time of a Python process; the least of three."""
    seconds = []
    for _ in range(3):
        process = subprocess.Popen([sys.executable, "-c", code], cwd=folder, stdout=subprocess.DEVNULL)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        assert process.returncode == 0
        seconds.append(usage.ru_utime + usage.ru_stime)
    return min(seconds)


HELP = "import sys; sys.argv = ['torchmill', '--help']; from torchmill.flows.cli.main import main; main()"


@pytest.mark.services
def test_help_imports_nothing_slow_and_takes_a_fraction_of_importing_torch(tmp_path):
    slow = "print({'torch', 'numpy', 'prefect', 'mlflow', 'torchvision', 'matplotlib', 'sklearn'} & set(sys.modules))"
    done = python(f"import atexit, sys; atexit.register(lambda: {slow}); {HELP}", tmp_path)
    assert done.stdout.endswith("set()\n") and "COMMAND" in done.stdout, done.stderr
    assert processor_seconds(HELP, tmp_path) < 0.3 * processor_seconds("import torch", tmp_path)


DECLARES = "the user's data, or a loss, declares itself"
KEY = "key of a file on disk"
OTHER = "name of a field, or of a user's folder, which is spelled like a kind"
MAY_NAME_TASKS_AND_KINDS = {
    "components/data/datasets/image_folder.py": DECLARES,
    "components/data/datasets/conll.py": OTHER,
    "components/data/datasets/text.py": OTHER,
    "components/data/formats/labels.py": DECLARES,
    "components/data/formats/mask_files.py": OTHER,
    "components/data/formats/table_": DECLARES,
    "components/training/losses/": DECLARES,
    "components/encoding/vocabulary.py": KEY,
    "components/evaluation/": KEY,
}


def test_tasks_and_kinds_of_inputs_are_named_in_their_own_files_alone():
    """All else asks the task or the kind, so that a new one needs nothing but its file."""
    own = ("components/tasks/", "components/fields/")
    named = {*tasks.names(), *fields.names()}
    namers = {
        str(file)
        for file in FILES
        if not str(file).startswith(own)
        and any(
            isinstance(node, ast.Constant) and node.value in named
            for node in ast.walk(ast.parse((REPOSITORY / file).read_bytes()))
        )
    }
    assert [file for file in sorted(namers) if not file.startswith(tuple(MAY_NAME_TASKS_AND_KINDS))] == []
    needless = [place for place in MAY_NAME_TASKS_AND_KINDS if not any(file.startswith(place) for file in namers)]
    assert needless == []


@pytest.mark.parametrize("module", ["torchmill.components.tasks", "torchmill.components.fields"])
def test_names_of_tasks_and_kinds_are_looked_up_without_torch(module, tmp_path):
    code = f"import sys, {module} as room; room.names(); room.checked(room.DEFAULT); print('numpy' in sys.modules)"
    done = python(code, tmp_path)
    assert (done.stdout, done.stderr) == ("False\n", "")
