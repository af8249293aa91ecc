import importlib.metadata
import os
import shutil
import subprocess
import sys
from importlib.machinery import EXTENSION_SUFFIXES, ModuleSpec
from importlib.util import spec_from_file_location
from pathlib import Path

import pytest

from torchmill.components.user_code.source_code import SourceCode, changes, closure

REPOSITORY = Path(__file__).parents[3]

NET = """\
from torch import nn

WIDTH = 32


class MyNet(nn.Module):
    def __init__(self, width: int = WIDTH):
        super().__init__()
        self.head = nn.Linear(width, 10)

    def forward(self, images):
        return self.head(images.flatten(1))


def small():
    return MyNet(width=8)
"""


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run from a folder unrelated to the code, unless a test changes it."""
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    return tmp_path / "tree"


def write(folder: Path, **texts: str) -> Path:
    """Write files; ``pkg__mod`` is ``pkg/mod.py`` and ``pkg__`` is ``pkg/__init__.py``. Gives ``net.py``."""
    for name, text in texts.items():
        *packages, module = name.split("__")
        file = folder.joinpath(*packages, f"{module or '__init__'}.py")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    return folder / "net.py"


def names(code: SourceCode) -> list[str]:
    assert list(code.files) == list(code.definitions) == sorted(code.files)
    return list(code.files)


def told(before: str, now: str, folder: Path) -> list[str]:
    """Return the changes between two versions of a file."""
    first = closure(write(folder, net=before)).definitions
    said = changes(first, closure(write(folder, net=now)).definitions)
    assert bool(said) == (first != closure(folder / "net.py").definitions)
    assert {file for file, _ in said} <= {"net.py"}
    return [what for _, what in said]


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("WIDTH = 32", "WIDTH = 32  # wide enough"),
        ("WIDTH = 32", "WIDTH = (\n    32\n)\n"),
        ("from torch import nn\n", '"""My nets."""\nfrom torch import nn\n'),
        ("class MyNet(nn.Module):\n", 'class MyNet(nn.Module):\n    """Mine."""\n\n'),
        ("images):\n", 'images):\n        """Give logits."""\n        # all of them\n'),
        ("def small():\n    return MyNet(width=8)", "def small(): return MyNet( width = 0x8, )"),
        ("\n", "\r\n"),
    ],
)
def test_comments_docstrings_and_formatting_change_nothing(tree, old, new):
    assert NET.replace(old, new) != NET
    assert told(NET, NET.replace(old, new), tree) == []


def test_a_docstring_that_changes_changes_nothing(tree):
    assert told('class A:\n    """One."""\n', 'class A:\n    """Two."""\n', tree) == []


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("flatten(1)", "flatten(2)", ["class MyNet"]),
        ("width: int = WIDTH", "width: int = 2 * WIDTH", ["class MyNet"]),
        ("class MyNet", "@final\nclass MyNet", ["class MyNet"]),
        ("width=8", "width=16", ["def small"]),
        ("def small():", "def small(width=8):", ["def small"]),
        ("def small", "@cache\ndef small", ["def small"]),
        ("def small", "async def small", ["def small"]),
        ("WIDTH = 32", "WIDTH = 48", ["module level"]),
        ("width=8", "width=8.0", ["def small"]),
        ("def small", "def tiny", ["def small is gone", "def tiny is new"]),
        ("WIDTH = 32", "WIDTH = 32\ndef f(): pass", ["def f is new"]),
        ("WIDTH = 32", "import math\ndef f(): pass\nWIDTH = 48", ["def f is new", "module level"]),
        ("\ndef small():\n    return MyNet(width=8)\n", "", ["def small is gone"]),
        ("WIDTH = 32\n", "WIDTH = 32\nif WIDTH:\n    class Old: pass\n", ["class Old is new", "module level"]),
    ],
)
def test_a_change_names_what_it_is_in(tree, old, new, said):
    assert told(NET, NET.replace(old, new), tree) == said


def test_a_definition_that_moves_past_a_statement_is_a_change(tree):
    assert told("a = 1\ndef f(x=a): ...\na = 2\n", "a = 1\na = 2\ndef f(x=a): ...\n", tree) == ["module level"]


def test_a_definition_that_moves_to_the_other_branch_is_a_change(tree):
    text = "if a:\n    x = 1\n{}else:\n    y = 1\n{}"
    f = "    def f(): ...\n"
    assert told(text.format(f, ""), text.format("", f), tree) == ["module level"]


def test_definitions_of_one_name_count_together(tree):
    text = "if a:\n    def f(): return {}\nelse:\n    def f(): return {}\n"
    assert told(text.format(1, 2), text.format(1, 3), tree) == ["def f"]
    assert told(text.format(1, 2), text.format(3, 2), tree) == ["def f"]
    assert told(text.format(1, 2), text.format(2, 1), tree) == ["def f"]


def test_files_that_come_and_go_are_told_in_order():
    before = {"b.py": {"def f": "1", "module level": "1"}, "gone.py": {}, "same.py": {"def f": "1"}}
    now = {"b.py": {"def f": "2", "module level": "2"}, "a.py": {}, "same.py": {"def f": "1"}}
    assert changes(before, now) == [
        ("a.py", "is new"),
        ("b.py", "def f"),
        ("b.py", "module level"),
        ("gone.py", "is gone"),
    ]
    assert changes(now, now) == []


def test_a_file_by_itself_is_all_there_is(tree):
    file = write(tree, net=NET, unrelated="x = 1")
    code = closure(file)
    assert code.files == {"net.py": file}
    assert list(code.definitions["net.py"]) == ["class MyNet", "def small", "module level"]
    assert code.libraries == {"torch": importlib.metadata.version("torch")}


def test_modules_beside_it_are_followed_and_theirs(tree):
    file = write(tree, net="import blocks", blocks="from deeper import Conv, conv", deeper="class Conv: ...")
    assert names(closure(file)) == ["blocks.py", "deeper.py", "net.py"]


def test_a_change_in_an_imported_file_is_told_there(tree):
    file = write(tree, net="import blocks", blocks="class Conv:\n    size = 3\n")
    before = closure(file)
    write(tree, blocks="class Conv:\n    size = 5\n")
    assert changes(before.definitions, closure(file).definitions) == [("blocks.py", "class Conv")]


@pytest.mark.parametrize(
    "text",
    [
        "def f():\n    import blocks",
        "class A:\n    def f(self):\n        from blocks import Conv",
        "try:\n    import blocks\nexcept ImportError:\n    blocks = None",
        "if False:\n    import blocks",
        "import blocks as b, os",
        "from blocks import *",
        "async def f():\n    with x:\n        import blocks",
    ],
)
def test_an_import_counts_wherever_it_stands(tree, text):
    assert names(closure(write(tree, net=text, blocks=""))) == ["blocks.py", "net.py"]


def test_a_file_that_appears_counts_at_once(tree):
    file = write(tree, net="import blocks")
    assert names(closure(file)) == ["net.py"]
    write(tree, blocks="")
    assert names(closure(file)) == ["blocks.py", "net.py"]


def test_a_package_brings_every_init_on_the_way_and_no_more(tree):
    file = write(
        tree, net="import a.b.c", a__="import seen", a__b__="", a__b__c="", a__b__d="", a__e="", seen="", unseen=""
    )
    assert names(closure(file)) == ["a/__init__.py", "a/b/__init__.py", "a/b/c.py", "net.py", "seen.py"]


def test_from_a_package_come_modules_and_what_is_none(tree):
    file = write(tree, net="from a import b, Conv, d", a__="class Conv: ...", a__b="", a__d__="", a__other="")
    assert names(closure(file)) == ["a/__init__.py", "a/b.py", "a/d/__init__.py", "net.py"]


def test_all_of_a_package_is_all_of_it(tree):
    file = write(tree, net="from a import *", a__="__all__ = ['b']", a__b="", a__c__="")
    assert names(closure(file)) == ["a/__init__.py", "a/b.py", "a/c/__init__.py", "net.py"]


def test_relative_imports_are_followed_within_a_package(tree):
    file = write(
        tree,
        net="from a.b.c import Net",
        a__="from . import start",
        a__start="",
        a__b__="",
        a__b__c="from .d import x\nfrom ..e import y\nfrom .. import f\nfrom ... import net",
        a__b__d="",
        a__e="",
        a__f="",
    )
    within = ["__init__.py", "b/__init__.py", "b/c.py", "b/d.py", "e.py", "f.py", "start.py"]
    assert names(closure(file)) == [*(f"a/{name}" for name in within), "net.py"]


def test_a_file_in_a_package_is_named_from_around_it(tree):
    write(
        tree, a__="", a__b__="import a.other", a__b__net="from . import c\nfrom a import d\nimport beside", a__b__c=""
    )
    write(tree, a__d="", a__other="", a__b__beside="", a__unseen="")
    expected = ["__init__.py", "b/__init__.py", "b/beside.py", "b/c.py", "b/net.py", "d.py", "other.py"]
    assert names(closure(tree / "a" / "b" / "net.py")) == [f"a/{name}" for name in expected]


def test_a_package_can_be_the_file(tree):
    write(tree, a__="from .b import Net\nimport a.c", a__b="", a__c="", a__unseen="")
    assert names(closure(tree / "a" / "__init__.py")) == ["a/__init__.py", "a/b.py", "a/c.py"]


def test_in_a_package_a_name_beside_the_file_and_one_around_the_package_both_count(tree):
    write(tree, a__="", a__net="import blocks", a__blocks="", blocks="")
    assert names(closure(tree / "a" / "net.py")) == ["a/__init__.py", "a/blocks.py", "a/net.py", "blocks.py"]


def test_imports_in_a_circle_end(tree):
    file = write(tree, net="import a", a__="from . import b", a__b="from . import c", a__c="import a.b, net")
    assert names(closure(file)) == ["a/__init__.py", "a/b.py", "a/c.py", "net.py"]


def test_packages_without_init_are_followed(tree):
    file = write(tree, net="from a.b import c\nimport a.d", a__b__c="from . import e\nfrom .. import f")
    write(tree, a__b__e="", a__d="", a__f="")
    assert names(closure(file)) == ["a/b/c.py", "a/b/e.py", "a/d.py", "a/f.py", "net.py"]


def test_a_file_in_a_package_without_init_is_named_from_the_root_that_is_given(tree):
    write(tree, a__b__net="from . import c\nfrom ..d import x\nimport a.e, beside", a__b__c="", a__b__beside="")
    write(tree, a__d="", a__e="")
    file = tree / "a" / "b" / "net.py"
    assert names(closure(file, tree)) == ["a/b/beside.py", "a/b/c.py", "a/b/net.py", "a/d.py", "a/e.py"]
    assert names(closure(file)) == ["../d.py", "beside.py", "c.py", "net.py"]
    assert names(closure(file, tree / "elsewhere")) == names(closure(file))


def test_modules_of_the_current_folder_and_of_the_path_are_own_and_named_as_modules(tree, tmp_path, monkeypatch):
    file = write(tree, net="import here.part, there")
    write(tmp_path / "work", here__="", here__part="from . import more", here__more="")
    write(tmp_path / "lib", there__="from .deep import x", there__deep="")
    monkeypatch.chdir(tmp_path / "work")
    monkeypatch.syspath_prepend(tmp_path / "lib")
    expected = ["here/__init__.py", "here/more.py", "here/part.py", "net.py", "there/__init__.py", "there/deep.py"]
    code = closure(file)
    assert names(code) == expected
    assert code.files["there/deep.py"] == tmp_path / "lib" / "there" / "deep.py"


def test_the_module_beside_it_comes_before_others(tree, tmp_path, monkeypatch):
    file = write(tree, net="import blocks", blocks="")
    write(tmp_path / "elsewhere", blocks="")
    write(tmp_path / "lib", blocks="")
    monkeypatch.syspath_prepend(tmp_path / "lib")
    assert closure(file).files["blocks.py"] == tree / "blocks.py"
    (tree / "blocks.py").unlink()
    assert closure(file).files["blocks.py"] == tmp_path / "elsewhere" / "blocks.py"


def test_two_files_of_one_name_are_both_kept(tree, tmp_path, monkeypatch):
    write(tree, parts__sub__net="from .. import conv\nfrom parts import conv", parts__conv="def f(): ...")
    write(tmp_path / "lib", parts__="", parts__conv="def g(): ...")
    monkeypatch.syspath_prepend(tmp_path / "lib")
    code = closure(tree / "parts" / "sub" / "net.py", tree)
    assert {str(path.relative_to(tmp_path)) for path in code.files.values()} == {
        "tree/parts/sub/net.py",
        "tree/parts/conv.py",
        "lib/parts/__init__.py",
        "lib/parts/conv.py",
    }
    assert set(code.definitions) == set(code.files)


def test_the_standard_library_is_left_out(tree):
    text = "from __future__ import annotations\nimport sys, os.path, json, math, random, _thread\nimport xml.etree"
    code = closure(write(tree, net=text))
    assert (names(code), code.libraries) == (["net.py"], {})


def test_a_file_beside_it_named_like_a_standard_module_is_own(tree):
    assert names(closure(write(tree, net="import random", random=""))) == ["net.py", "random.py"]


def test_libraries_are_told_by_the_distribution_and_its_version(tree):
    write(tree, blocks="def f():\n    import numpy.linalg")
    code = closure(write(tree, net="import blocks\nfrom sklearn.metrics import f1_score\nimport yaml"))
    assert names(code) == ["blocks.py", "net.py"]
    assert code.libraries == {name: importlib.metadata.version(name) for name in ("PyYAML", "numpy", "scikit-learn")}


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of installed modules."""
    site = tmp_path / "venv" / "site-packages"
    site.mkdir(parents=True)
    monkeypatch.syspath_prepend(site)
    return site


def install(site: Path, distribution: str, version: str, **texts: str) -> None:
    write(site, **texts)
    for old in site.glob(f"{distribution}-*.dist-info"):
        shutil.rmtree(old)
    (site / f"{distribution}-{version}.dist-info").mkdir()
    folder = site / f"{distribution}-{version}.dist-info"
    (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: {version}\n")
    record = [*(path for path in site.rglob("*.py")), *folder.iterdir()]
    (folder / "RECORD").write_text("".join(f"{path.relative_to(site)},,\n" for path in record))


def test_an_upgraded_library_has_its_new_version(tree, site):
    file = write(tree, net="import convs")
    install(site, "better-convs", "1.0", convs="")
    assert closure(file).libraries == {"better-convs": "1.0"}
    install(site, "better-convs", "2.0", convs="")
    assert closure(file).libraries == {"better-convs": "2.0"}


def test_a_module_that_no_distribution_installed_is_own(tree, site):
    install(site, "convs", "1.0", convs="")
    write(site, loose="import convs")
    code = closure(write(tree, net="import loose"))
    assert (names(code), code.libraries) == (["loose.py", "net.py"], {"convs": "1.0"})


def test_a_package_without_init_can_be_own_in_one_place_and_installed_in_another(tree, site):
    install(site, "theirs", "1.0", shared__theirs="")
    code = closure(write(tree, net="import shared.mine, shared.theirs", shared__mine=""))
    assert (names(code), code.libraries) == (["net.py", "shared/mine.py"], {"theirs": "1.0"})


def test_the_package_of_the_file_is_own_where_it_is_installed(site):
    install(site, "nets", "1.0", nets__="", nets__net="import nets.blocks, convs", nets__blocks="", convs="")
    code = closure(site / "nets" / "net.py")
    assert (names(code), code.libraries) == (["nets/__init__.py", "nets/blocks.py", "nets/net.py"], {"nets": "1.0"})


def test_a_compiled_module_in_the_tree_is_left_out(tree):
    file = write(tree, net="import fast")
    (tree / f"fast{EXTENSION_SUFFIXES[0]}").write_bytes(b"\x7fELF")
    assert names(closure(file)) == ["net.py"]


class EditableFinder:
    """A finder like an editable install's in ``sys.meta_path``."""

    def __init__(self, places: dict[str, Path]):
        self.places = places

    def find_spec(self, name: str, path: object = None, target: object = None) -> ModuleSpec | None:
        return spec_from_file_location(name, self.places[name]) if name in self.places else None


def test_a_package_that_an_import_hook_finds_is_own(tree, tmp_path, monkeypatch):
    write(tmp_path / "src", nets__="from . import blocks", nets__blocks="")
    finder = EditableFinder({"nets": tmp_path / "src" / "nets" / "__init__.py"})
    monkeypatch.setattr(sys, "meta_path", [*sys.meta_path, finder])
    assert names(closure(write(tree, net="import nets"))) == ["net.py", "nets/__init__.py", "nets/blocks.py"]


def test_a_missing_module_is_no_error(tree):
    text = "try:\n    import apex.amp\n    from apex import x\n    from . import y\n    from .... import z\n"
    code = closure(write(tree, net=f"{text}except ImportError:\n    pass\nimport blocks.none", blocks=""))
    assert (names(code), code.libraries) == (["blocks.py", "net.py"], {})


def test_nothing_is_run(tree):
    trap = "import pathlib\npathlib.Path('was_here').touch()\nraise SystemExit(3)\n"
    file = write(tree, net=trap + "import trap_a.b", trap_a__=trap, trap_a__b=trap)
    path, modules = list(sys.path), set(sys.modules)
    assert names(closure(file)) == ["net.py", "trap_a/__init__.py", "trap_a/b.py"]
    assert list(Path.cwd().iterdir()) == []
    assert not list(tree.rglob("__pycache__"))
    assert sys.path == path
    assert not {"net", "trap_a", "trap_a.b"} & (set(sys.modules) - modules)


def test_names_and_digests_are_the_same_wherever_the_tree_lies_and_is_looked_at_from(tree, tmp_path, monkeypatch):
    file = write(tree, net=NET + "import blocks, a.b", blocks="from a import *", a__="", a__b="from ..net import x")
    before = closure(file)
    assert before.files["a/b.py"] == tree / "a" / "b.py"
    shutil.copytree(tree, tmp_path / "other" / "place")
    shutil.rmtree(tree)
    monkeypatch.chdir(tmp_path / "other" / "place")
    for file in (Path("net.py"), Path("../place/net.py"), Path.cwd() / "net.py"):
        after = closure(file)
        assert names(after) == names(before)
        assert (after.definitions, after.libraries) == (before.definitions, before.libraries)
        assert set(after.files.values()) == {Path.cwd() / name for name in names(before)}


def test_what_is_given_can_be_changed_without_harm(tree):
    file = write(tree, net=NET)
    closure(file).definitions["net.py"].clear()
    assert closure(file).definitions["net.py"]


@pytest.mark.parametrize("text", [b"def f(:\n", b"x = '\xff'\n", b"\0"])
def test_an_imported_file_that_is_not_python_counts_by_its_bytes(tree, text):
    file = write(tree, net="import blocks")
    (tree / "blocks.py").write_bytes(text)
    before = closure(file)
    assert list(before.definitions["blocks.py"]) == ["module level"]
    (tree / "blocks.py").write_bytes(text + b"#")
    assert changes(before.definitions, closure(file).definitions) == [("blocks.py", "module level")]


def test_a_file_that_is_not_python_is_refused(tree):
    with pytest.raises(SyntaxError):
        closure(write(tree, net="def f(:\n"))


def test_a_file_that_is_not_there_is_refused(tree):
    with pytest.raises(FileNotFoundError):
        closure(tree / "net.py")


def test_an_endless_expression_is_no_obstacle(tree):
    text = "import blocks\nx = " + " + ".join(["1"] * 900)
    assert told(text, text + " + 2", tree) == ["module level"]
    assert names(closure(write(tree, blocks=""))) == ["blocks.py", "net.py"]


def test_a_doubtful_escape_is_left_to_python_to_warn_of(tree):
    assert names(closure(write(tree, net="import blocks\nx = '\\d'", blocks=""))) == ["blocks.py", "net.py"]


@pytest.mark.parametrize("folder", [REPOSITORY, Path("/")])
def test_torchmills_own_networks_count_like_any_other(folder, monkeypatch):
    file = REPOSITORY / "components" / "models" / "simple_cnn.py"
    monkeypatch.chdir(folder)
    code = closure(Path(os.path.relpath(file)))
    assert code.files["components/models/simple_cnn.py"] == file
    assert all(name.startswith("components/") for name in {*names(code)} - {"src/torchmill/__init__.py"})
    assert code.libraries == {"torch": importlib.metadata.version("torch")}


def test_torchmills_own_modules_bring_theirs():
    code = closure(REPOSITORY / "components" / "training" / "fit.py")
    assert {"components/refs.py", "components/training/optimizers/__init__.py"} <= set(names(code))
    assert all(name.startswith("components/") for name in {*names(code)} - {"src/torchmill/__init__.py"})


def test_it_imports_no_torch():
    code = (
        "import sys, torchmill.components.user_code.source_code\n"
        "print({'torch', 'prefect', 'mlflow'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=REPOSITORY)
    assert (done.stdout, done.stderr) == ("set()\n", "")


def test_what_is_imported_for_type_checkers_alone_is_left_out(tree):
    text = "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import layers\n"
    assert names(closure(write(tree, net=text, layers="a = 1\n"))) == ["net.py"]


def test_what_is_imported_unless_for_type_checkers_counts(tree):
    text = "from typing import TYPE_CHECKING\nif not TYPE_CHECKING:\n    import layers\n"
    assert names(closure(write(tree, net=text, layers="a = 1\n"))) == ["layers.py", "net.py"]
