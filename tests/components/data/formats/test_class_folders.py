"""Folders of classes are found whatever their names, links and layouts; unclear ones are refused."""

import logging
import unicodedata
from collections.abc import Iterable
from pathlib import Path

import pytest

from torchmill.components.data.fetch import fetch, prepared
from torchmill.components.data.formats.class_folders import Tree, read_tree
from torchmill.components.errors import UserError


def fill(root: Path, names: Iterable[str]) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(f"a text of {name}")
    return root


def files(tree: Tree) -> dict[str, dict[str, int]]:
    """Return the number of files by split and class."""
    counts: dict[str, dict[str, int]] = {split: {} for split in tree.splits}
    for split, members in tree.splits.items():
        for _, label in members:
            counts[split][tree.classes[label]] = counts[split].get(tree.classes[label], 0) + 1
    return counts


def read(root: Path) -> Tree:
    return read_tree(root, {".txt"}, "texts")


@pytest.mark.parametrize(
    "names", [["①", "②"], ["10²", "x²"], ["٣", "١٠"], ["½", "Ⅷ", "a=b,c:d;e", "-minus", "日本 語"]]
)
def test_classes_may_have_any_names(tmp_path: Path, names: list[str]):
    tree = read(fill(tmp_path, [f"{name}/1.txt" for name in names]))
    assert set(tree.classes) == set(names)


def test_composed_and_decomposed_names_are_one_class(tmp_path: Path):
    composed, decomposed = (unicodedata.normalize(form, "café") for form in ("NFC", "NFD"))
    fill(tmp_path, [f"train/{composed}/1.txt", f"train/{decomposed}/2.txt", "train/tea/1.txt"])
    fill(tmp_path, [f"test/{decomposed}/1.txt", "test/tea/1.txt"])
    assert files(read(tmp_path)) == {"train": {composed: 2, "tea": 1}, "test": {composed: 1, "tea": 1}}


def test_folders_of_systems_and_archives_are_no_classes(tmp_path: Path):
    left = ["__MACOSX/a/1.txt", "@eaDir/1.txt", "lost+found/1.txt", ".git/1.txt", "a/@eaDir/1.txt", "a/.x.txt"]
    tree = read(fill(tmp_path, ["a/1.txt", "b/1.txt", *left]))
    assert files(tree) == {"train": {"a": 1, "b": 1}}


def test_links_are_followed_and_loops_are_not(tmp_path: Path, caplog):
    store = fill(tmp_path / "store", ["2023/a/1.txt", "2023/a/2.txt", "2024/a/3.txt"])
    root = fill(tmp_path / "own", ["b/1.txt"])
    (root / "a").mkdir()
    (root / "a" / "2023").symlink_to(store / "2023" / "a")
    (root / "a" / "3.txt").symlink_to(store / "2024" / "a" / "3.txt")
    (root / "a" / "up").symlink_to(root)
    (root / "a" / "gone").symlink_to(tmp_path / "nowhere")
    (root / "c").symlink_to(store / "2023")
    assert files(read(root)) == {"train": {"a": 3, "b": 1, "c": 2}}
    assert f"{root / 'a' / 'gone'} is a link to nothing" in caplog.text


def test_a_change_behind_a_link_is_seen(tmp_path: Path):
    store = fill(tmp_path / "store", [f"{number}.txt" for number in range(9)])
    root = fill(tmp_path / "own", [f"b/{number}.txt" for number in range(9)])
    (root / "a").symlink_to(store)
    name, cache = f"text_folder:{root}", tmp_path / "cache"
    data = fetch(name, cache)
    assert prepared(name, cache) == data
    (store / "new.txt").write_text("another text")
    assert prepared(name, cache) is None


def test_splits_may_lie_in_the_classes(tmp_path: Path, caplog):
    names = [f"{label}/{split}/{number}.txt" for label in "ab" for split in ("train", "test") for number in range(2)]
    with caplog.at_level(logging.INFO, "torchmill"):
        assert files(read(fill(tmp_path, [*names, "a/val/1.txt", "a/extra/1.txt"]))) == {
            "train": {"a": 2, "b": 2},
            "validation": {"a": 1},
            "test": {"a": 2, "b": 2},
        }
    assert "have the splits in them" in caplog.text and "extra beside train left out" in caplog.text


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (["a/train/1.txt", "b/1.txt"], "a has a folder train, and b has none"),
        (["train/1.txt", "test/1.txt"], "has test and train, and no class folders in them"),
        (["own/cat/1.txt", "own/dog/1.txt"], "one class alone in .*'own'.* Did you mean .*own, with cat, dog"),
        (["a/train/1.txt", "a/training/1.txt", "b/train/1.txt"], "has train and training"),
    ],
)
def test_an_unclear_layout_is_refused(tmp_path: Path, names: list[str], words: str):
    with pytest.raises(UserError, match=words):
        read(fill(tmp_path, names))


def test_files_of_lines_are_classes_and_not_splits(tmp_path: Path):
    fill(tmp_path / "own", ["train.txt", "test.txt"])
    with pytest.raises(UserError, match=r"has test.txt, train.txt: named like splits, not like classes"):
        fetch(f"text_folder:{tmp_path / 'own'}", tmp_path / "cache")
