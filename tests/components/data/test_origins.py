"""Origins name samples by file and line, and decide nothing."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from torchmill.components.data.fetch import fetch, prepared
from torchmill.components.data.inspection.findings import leakage_error
from torchmill.components.data.inspection.inspect import inspect
from torchmill.components.data.origins import origins_file, read_origins, write_origins
from torchmill.components.refs import DataRef

RNG = np.random.RandomState(0)


def pictures(root: Path, each: int = 12) -> Path:
    """Two classes of noise; the names count backwards, so that no row is the number in a name."""
    for name in ("a", "b"):
        (root / name).mkdir(parents=True)
        for number in range(each):
            noise = RNG.randint(0, 256, (9, 9, 3)).astype(np.uint8)
            Image.fromarray(noise).resize((18, 18), Image.Resampling.NEAREST).save(root / name / f"{90 - number}.png")
    return root


def origins(data: DataRef, split: str) -> list[str]:
    return origins_file(data.folder, split).read_text().splitlines()


def test_each_row_is_known_by_its_file_though_some_are_left_out(tmp_path):
    root = pictures(tmp_path / "own", 30)
    (root / "a" / "85.png").write_bytes(b"none")
    data = fetch(f"image_folder:{root}", tmp_path / "cache")
    seen = 0
    for split in ("train", "test"):
        for image, file in zip(np.load(data.folder / f"{split}_inputs.npy"), origins(data, split), strict=True):
            assert np.array_equal(np.asarray(Image.open(root / file)).transpose(2, 0, 1), image)
            seen += 1
    assert seen == 59


@pytest.mark.parametrize("own_validation", [False, True])
def test_a_leak_names_both_files_and_so_does_the_json(tmp_path, own_validation):
    root = tmp_path / "own"
    for split in ("train", "test", *(("val",) if own_validation else ())):
        pictures(root / split)
    copies = {
        "test/b/85.png": "val/a/84.png" if own_validation else "train/a/84.png",
        "test/a/90.png": "train/b/82.png",
    }
    for copy, original in copies.items():
        shutil.copy(root / original, root / copy)
    data = fetch(f"image_folder:{root}", tmp_path / "cache")
    found = inspect(data.with_split(0.3, seed=0), tmp_path / "found")
    assert {leak.origin: leak.other_origin for leak in found.leaks} == copies
    told = json.loads((tmp_path / "found" / "inspection.json").read_text())
    assert {leak["origin"]: leak["other_origin"] for leak in told["leaks"]} == copies
    assert "test/a/90.png is train/b/82.png; test/b/85.png is " in str(leakage_error(data, found, 0.01))


def test_doubtful_and_contradicting_labels_are_known_by_their_files(tmp_path):
    root = tmp_path / "own"
    for split in ("train", "test"):
        pictures(root / split, 30)
    for name in ("a", "b"):  # four looks, each with fifteen pictures
        looks = [RNG.randint(0, 256, (9, 9, 3)) for _ in range(2)]
        for number in range(30):
            look = (looks[number % 2] + RNG.randint(-9, 9, (9, 9, 3))).clip(0, 255).astype(np.uint8)
            Image.fromarray(look).save(root / "train" / name / f"{90 - number}.png")
    shutil.move(root / "train/a/90.png", root / "train/b/90.png")
    shutil.copy(root / "train/a/87.png", root / "train/b/87.png")
    data = fetch(f"image_folder:{root}", tmp_path / "cache", args={"image_size": 9})
    found = inspect(data.with_split(0.1, seed=0), tmp_path / "found")
    assert "train/b/90.png" in {one.origin for one in found.suspects}
    assert found.contradicting_origins == (("train/a/87.png", "train/b/87.png"),)
    assert any("train/b/90.png 'b' or 'a'?" in line for line in found.lines())


def test_texts_are_known_by_file_and_line(tmp_path):
    (tmp_path / "lines").mkdir()
    for name in ("a", "b"):
        text = "\n\n".join(f"{name} text of number {number}" for number in range(40))
        (tmp_path / "lines" / f"{name}.txt").write_text(text)
    data = fetch(f"text_folder:{tmp_path / 'lines'}", tmp_path / "cache")
    assert {"a.txt line 1", "a.txt line 3", "b.txt line 79"} < {
        name for split in ("train", "validation", "test") for name in origins(data, split)
    }


def test_rows_of_a_table_are_known_by_their_lines(tmp_path):
    rows = [f"{number},{number % 2}" for number in range(40)]
    (tmp_path / "own.csv").write_text("a,label\n\n" + "\n".join(rows))
    data = fetch(f"csv:{tmp_path / 'own.csv'}", tmp_path / "cache")
    for split in ("train", "test"):
        values = np.load(data.folder / f"{split}_inputs.npy")[:, 0]
        assert origins(data, split) == [f"own.csv line {int(value) + 3}" for value in values]


def test_items_of_a_users_function_are_named_by_number_if_the_test_split_was_cut(tmp_path):
    (tmp_path / "mine.py").write_text(
        "import numpy as np\n\ndef data():\n    return np.arange(40.0)[:, None], np.arange(40) % 2\n"
    )
    data = fetch(f"{tmp_path / 'mine.py'}:data", tmp_path / "cache")
    values = np.load(data.folder / "test_inputs.npy")[:, 0]
    assert origins(data, "test") == [f"item {int(value)}" for value in values]


def test_origins_are_no_part_of_the_digest_and_are_written_again_if_damaged(tmp_path):
    one = fetch(f"image_folder:{pictures(tmp_path / 'own')}", tmp_path / "cache")
    (tmp_path / "own" / "a" / "90.png").rename(tmp_path / "own" / "a" / "91.png")
    other = fetch(f"image_folder:{tmp_path / 'own'}", tmp_path / "cache")
    assert (one.sha256, one.identity()) == (other.sha256, other.identity())
    assert "a/91.png" in origins(other, "train") + origins(other, "test")
    origins_file(other.folder, "train").write_text("nonsense")
    assert prepared(other.name, tmp_path / "cache") is None
    fetch(other.name, tmp_path / "cache")
    assert len(origins(other, "train")) == other.train_size


def test_names_that_no_terminal_bears_are_escaped(tmp_path):
    write_origins(tmp_path, "train", ["grün/蓝.png", "two\nlines", "not \udcff UTF-8", "\x1b[31m"])
    known = read_origins(tmp_path, "train", [0, 1, 2, 3])
    assert known == {0: "grün/蓝.png", 1: "two\\nlines", 2: "not \\udcff UTF-8", 3: "\\x1b[31m"}
    assert read_origins(tmp_path, "train", {2}) == {2: known[2]}
    assert read_origins(tmp_path, "test", {2}) == {}
