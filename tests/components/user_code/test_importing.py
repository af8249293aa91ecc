"""The user's own files import from any folder, in packages too."""

import sys
from pathlib import Path

import pytest

from torchmill.components.errors import UserError
from torchmill.components.user_code.importing import import_from
from torchmill.components.user_code.source_code import closure


@pytest.fixture(autouse=True)
def modules(monkeypatch: pytest.MonkeyPatch) -> None:
    """Remove a test's imports when it ends."""
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setattr(sys, "modules", {**sys.modules})


def write(root: Path, **texts: str) -> Path:
    """Write files; ``own__mod`` is ``own/mod.py`` and ``own__`` is ``own/__init__.py``."""
    for name, text in texts.items():
        path = root / f"{name.replace('__', '/') if not name.endswith('__') else name[:-2] + '/__init__'}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


@pytest.mark.parametrize("is_package", [True, False])
def test_a_file_finds_what_it_imports_by_dots_and_its_closure_sees_the_same(tmp_path, is_package):
    write(tmp_path, own_package__net="from .part import width\nimport beside", own_package__part="width = 3")
    write(tmp_path, own_package__beside="")
    if is_package:
        write(tmp_path, own_package__="")
    file = tmp_path / "own_package" / "net.py"
    assert import_from(str(file)).width == 3
    assert {"net.py", "part.py", "beside.py"} <= {found.name for found in closure(file).files.values()}


def test_dots_go_up_and_a_package_is_one_by_whichever_name_it_is_imported(tmp_path):
    write(tmp_path / "own_tree", a__="", a__net="from ..kept import Kept\nfrom own_tree.kept import Kept as Same")
    write(tmp_path, own_tree__="", own_tree__kept="class Kept: pass")
    module = import_from(str(tmp_path / "own_tree" / "a" / "net.py"))
    assert module.Kept is module.Same


def test_a_file_that_changed_is_read_anew_and_so_is_a_package_from_elsewhere(tmp_path):
    for place, width in (("one", 1), ("two", 2)):
        write(
            tmp_path / place,
            own_again__="",
            own_again__net="from .part import width",
            own_again__part=f"width = {width}",
        )
    one, two = (str(tmp_path / place / "own_again" / "net.py") for place in ("one", "two"))
    assert (import_from(one).width, import_from(two).width, import_from(one).width) == (1, 2, 1)
    Path(one).write_text("from .part import width\nwidth += 10  # another size of the file")
    assert import_from(one).width == 11


def test_a_package_that_is_called_like_another_is_refused(tmp_path):
    file = write(tmp_path, json__="", json__net="from .part import width", json__part="width = 3") / "json" / "net.py"
    with pytest.raises(UserError, match=r"belongs to the package 'json'.*Rename the folder"):
        import_from(str(file))
