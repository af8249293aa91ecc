"""Two data sets share no title, and one has the same title from wherever it is named."""

import itertools
from pathlib import Path

import pytest

from torchmill.components.config import load
from torchmill.components.data.config import DataConfig
from torchmill.components.runs.fingerprint import of_step
from torchmill.components.runs.snapshot import read_snapshot, write_snapshot


def make(root: Path) -> list[str]:
    """Return the names of data sets whose last parts are all alike."""
    names = []
    for folder in ("bolts", "bottles", "a/x", "b/x", "x"):
        (root / folder / "images").mkdir(parents=True)
        (root / folder / "work.py").write_text("def load(): ...\ndef other(): ...\n")
        (root / folder / "images.csv").write_text("x,label\n1,a\n")
        names += [f"image_folder:{folder}/images", f"text_folder:{folder}/images", f"csv:{folder}/images.csv"]
        names += [f"{folder}/work.py:load", f"{folder}/work.py:other"]
    return names


def test_data_sets_with_the_same_last_part_share_no_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    names = make(tmp_path)
    registered = {load(None, {"data": name}).registered_name for name in names}
    assert len({DataConfig(name=name).title for name in names}) == len(registered) == len(names)


def test_a_data_set_has_one_name_from_wherever_it_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    make(tmp_path)
    ways = [
        (tmp_path, "bolts"),
        (tmp_path / "bolts", "."),
        (tmp_path / "a", "../bolts"),
        (tmp_path, f"{tmp_path}/bolts"),
        (tmp_path, "bolts/../bolts/"),
    ]
    for name in ("image_folder:{}/images", "csv:{}/images.csv", "{}/work.py:load"):
        titles = set()
        for folder, place in ways:
            monkeypatch.chdir(folder)
            titles.add(DataConfig(name=name.format(place)).title)
        assert len(titles) == 1 and "bolts" in titles.pop()


def test_a_clone_of_a_repository_has_the_same_data_sets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    for owner in ("anna", "ben"):
        (tmp_path / owner / "parts" / ".git").mkdir(parents=True)
        make(tmp_path / owner / "parts")
    titles = {}
    for owner in ("anna", "ben"):
        monkeypatch.chdir(tmp_path / owner / "parts")
        titles[owner] = [
            DataConfig(name=name).title for name in ("csv:x/images.csv", "x/work.py:load", "csv:a/x/images.csv")
        ]
    assert titles["anna"] == titles["ben"] and len(set(titles["anna"])) == 3


def test_a_recorded_configuration_keeps_the_identity_of_its_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    make(tmp_path)
    monkeypatch.chdir(tmp_path)
    config = load(None, {"data": "bolts/work.py:load"})
    (tmp_path / "run").mkdir()
    write_snapshot(config, tmp_path / "run")
    recorded = read_snapshot(tmp_path / "run")
    assert recorded.data.name != config.data.name
    assert (recorded.data.identity, recorded.data.title) == (config.data.identity, config.data.title)
    settings = tmp_path / "run" / "config.yaml"  # as an earlier version wrote it
    settings.write_text("".join(settings.read_text().splitlines(keepends=True)[1:]))
    assert read_snapshot(tmp_path / "run").data.title == "load"


def test_the_same_source_in_another_folder_is_another_data_set_for_the_cache(tmp_path, monkeypatch):
    make(tmp_path)
    monkeypatch.chdir(tmp_path)
    keys = {
        name: of_step("fetch", {"config": DataConfig(name=name)}).key
        for name in ("bolts/work.py:load", "bottles/work.py:load", f"{tmp_path}/bolts/work.py:load")
    }
    first, other, absolute = keys.values()
    assert first == absolute != other


@pytest.mark.parametrize("name", ["digits", "mnist", "names"])
def test_the_names_of_our_own_data_sets_stay(name: str):
    assert DataConfig(name=name).title == DataConfig(name=name).former_title == name


def test_a_module_is_where_its_file_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    titles = set()
    for folder in ("bolts", "bottles"):
        (tmp_path / folder / f"parts_{folder}").mkdir(parents=True)
        (tmp_path / folder / f"parts_{folder}" / "__init__.py").write_text("")
        (tmp_path / folder / f"parts_{folder}" / "work.py").write_text("def load(): ...\n")
        monkeypatch.chdir(tmp_path / folder)
        config = DataConfig(name=f"parts_{folder}.work:load")
        assert config.identity == f"{tmp_path}/{folder}/parts_{folder}/work.py:load"
        titles |= {config.title, DataConfig(name=f"parts_{folder}/work.py:load").title}
    assert len(titles) == 2
    assert all(first != second for first, second in itertools.combinations(titles, 2))
