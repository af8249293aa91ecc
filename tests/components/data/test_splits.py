"""Samples stay in their split when data grows, and equal samples stay together."""

import json
from pathlib import Path

import numpy as np
import pytest

from tests.toy import toy_data, toy_numbers
from torchmill.components.data import content
from torchmill.components.data.content import read_digests, row_digests, text_digests, trained_digests
from torchmill.components.data.fetch import fetch
from torchmill.components.data.samples import read_test, read_training, training_sizes
from torchmill.components.data.splits import cut, cut_validation
from torchmill.components.refs import DataRef

COLORS = ["red", "blue", "green"]
PARTS = {"test": 0.2, "validation": 0.1}


def drawn(samples: int, classes: int = 4, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Labels, and digests of as many groups."""
    rng = np.random.default_rng(seed)
    return rng.integers(0, classes, samples), rng.integers(0, 2**63, samples).astype(np.uint64)


def test_the_parts_are_all_samples_once_and_about_as_large_as_asked():
    labels, groups = drawn(20_000)
    rows = cut(labels, groups, PARTS)
    assert list(rows) == ["train", "test", "validation"]
    assert np.array_equal(np.sort(np.concatenate(list(rows.values()))), np.arange(20_000))
    for part, fraction in PARTS.items():
        for label in range(4):
            share = (labels[rows[part]] == label).sum() / (labels == label).sum()
            assert share == pytest.approx(fraction, abs=0.02)


def test_a_split_is_a_function_of_content_and_seed_and_of_no_order():
    labels, groups = drawn(500)
    order = np.random.default_rng(1).permutation(500)
    first, moved = cut(labels, groups, PARTS, 3), cut(labels[order], groups[order], PARTS, 3)
    for part in first:
        assert set(groups[first[part]]) == set(groups[order][moved[part]])
    assert set(first["test"]) != set(cut(labels, groups, PARTS, 4)["test"])
    alone = cut(labels, groups, {"test": 0.2}, 3)
    assert np.array_equal(alone["test"], first["test"])  # whether validation is cut, too, doesn't matter
    # A run's cut of the rest doesn't follow the cut of the source, though both have the same seed.
    rest = alone["train"]
    again = cut(labels[rest], groups[rest], {"validation": 0.1}, 3)
    assert 0.04 < len(again["validation"]) / len(rest) < 0.18


def test_equal_samples_stay_together_whatever_their_labels():
    labels, groups = drawn(600)
    groups %= np.uint64(150)
    rows = cut(labels, groups, PARTS)
    parts = [set(groups[indices].tolist()) for indices in rows.values()]
    assert sum(map(len, parts)) == len(set.union(*parts)) == len(np.unique(groups))


@pytest.mark.parametrize("samples", [6, 12, 40, 1000])
def test_no_training_sample_becomes_a_test_sample_when_data_grows(samples):
    """But the last one of its class: a class keeps one for training, which moves when others come."""
    moved = last = 0
    for seed in range(200):
        labels, groups = drawn(samples + 10, seed=seed)
        before, after = cut(labels[:samples], groups[:samples], PARTS), cut(labels, groups, PARTS)
        for row in sorted(set(before["train"]) & set(after["test"])):
            moved += 1
            last += (labels[before["train"]] == labels[row]).sum() == 1
        if samples == 1000:
            assert set(before["test"]) <= set(after["test"])
    assert moved == last
    assert moved < {6: 400, 12: 200, 40: 20, 1000: 1}[samples]


@pytest.mark.parametrize("fraction", [0.01, 0.5, 0.89])
def test_a_class_has_a_sample_in_training_and_if_it_can_in_each_part(fraction):
    for seed in range(20):
        labels, groups = np.array([0] * 50 + [1] * 2 + [2]), drawn(53, seed=seed)[1]
        rows = cut(labels, groups, {"validation": fraction}, seed)
        assert set(labels[rows["train"]]) == {0, 1, 2}
        assert set(labels[rows["validation"]]) == {0, 1}
        labels = np.array([0] * 50 + [1] * 3 + [2] * 2)
        rows = cut(labels, drawn(55, seed=seed)[1], {"test": fraction, "validation": 0.1}, seed)
        assert [set(labels[indices]) for indices in rows.values()] == [{0, 1, 2}, {0, 1, 2}, {0, 1}]


def test_labels_that_are_no_classes_are_cut_as_one_class():
    _, groups = drawn(400)
    targets = np.random.default_rng(0).normal(size=(400, 3)).astype(np.float32)
    rows = cut(targets, groups, PARTS)
    assert 55 < len(rows["test"]) < 105 and 25 < len(rows["validation"]) < 60


def test_ten_more_rows_move_no_test_row_of_a_table_a_function_or_a_folder(tmp_path):
    rng = np.random.default_rng(0)
    rows = [f"{x:.3f},{COLORS[n % 3]},{'ab'[n % 2]}" for n, x in enumerate(rng.normal(size=1010))]
    table, own, texts = tmp_path / "table.csv", tmp_path / "own.py", tmp_path / "texts"
    code = "import numpy as np\n\ndef data():\n    rng = np.random.default_rng(0)\n"
    code += (
        "    values = rng.normal(size=(1010, 3))[:COUNT][::STEP]\n    return values, (values[:, 0] > 0).astype(int)\n"
    )
    texts.mkdir()
    found: dict[str, list[dict[str, set[int]]]] = {}
    for count, step in ((1000, 1), (1010, -1)):  # more rows, and in another order
        table.write_text("\n".join(["size,color,label", *rows[:count][::step]]))
        own.write_text(code.replace("COUNT", str(count)).replace("STEP", str(step)))
        for name in "ab":
            lines = [f"text {n} of {name}" for n in range(count // 2)][::step]
            (texts / f"{name}.txt").write_text("\n".join(lines))
        for name in (f"csv:{table}", f"{own}:data", f"text_folder:{texts}"):
            data = fetch(name, tmp_path / "cache")
            splits = {split: set(read_digests(data, split).tolist()) for split in ("train", "test")}
            found.setdefault(name, []).append(splits | {"size": {data.test_size}})
    for before, after in found.values():
        assert not after["test"] & before["train"] and before["test"] <= after["test"]
        assert len(before["test"]) > 80 and len(after["test"] - before["test"]) < 10


def test_a_run_cuts_groups_and_not_rows_for_validation(tmp_path):
    rows = [f"{n % 40},{COLORS[n % 3]},{'ab'[n % 2]}" for n in range(600)]
    (tmp_path / "train.csv").write_text("\n".join(["size,color,label", *rows]))
    (tmp_path / "test.csv").write_text("size,color,label\n99,red,a\n98,red,b\n")
    data = fetch(f"csv:{tmp_path}", tmp_path / "cache").with_split(0.2, seed=5)
    training, validation = read_training(data)
    parts = [{row.numpy().tobytes() for row in part.inputs} for part in (training, validation)]
    assert not parts[0] & parts[1] and all(parts)
    assert training_sizes(data) == (len(training), len(validation))


def test_digests_are_of_content_in_the_source_and_not_of_its_encoding(tmp_path):
    """Training samples are recognised, though other rows have moved categories and offsets."""
    found = []
    for name, extra in (("a", "1.50,red"), ("b", "7,violet")):
        (tmp_path / name).mkdir()
        rows = [f"1.5,red,a\n{1_700_000_000 + 7 * n},blue,{'ab'[n % 2]}" for n in range(40)]
        (tmp_path / name / "train.csv").write_text("\n".join(["size,color,label", *rows, f"{extra},a"]))
        (tmp_path / name / "test.csv").write_text("size,color,label\n1.5,red,a\n9,blue,b\n")
        data = fetch(f"csv:{tmp_path / name}", tmp_path / "cache")
        found.append((set(read_digests(data, "train").tolist()), set(read_digests(data, "test").tolist())))
    (first, test), (second, same) = found
    assert test == same and first < second and len(second - first) == 1 and len(first) == 41


def test_texts_that_differ_by_case_are_one_and_so_are_the_two_zeros():
    assert len(set(text_digests(["Read  this", "read this", "READ THIS", "read"]).tolist())) == 2
    assert len(set(row_digests(np.array([[0.0, 1], [-0.0, 1], [0, 2]], np.float32)).tolist())) == 2


def test_digests_are_computed_in_blocks(tmp_path, monkeypatch):
    data = toy_data(tmp_path, train=100, size=8)
    whole = row_digests(np.load(data.folder / "train_inputs.npy"))
    monkeypatch.setattr(content, "BLOCK", 7)
    assert np.array_equal(read_digests(data, "train"), whole) and len(np.unique(whole)) == 100


def test_validation_counts_among_what_a_run_learns_from(tmp_path):
    data = toy_numbers(tmp_path, train=50, test=20)
    digests = trained_digests(data)
    assert set(digests) == set(read_digests(data, "train")) and (np.diff(digests.astype(np.float64)) > 0).all()
    assert not np.isin(read_digests(data, "test"), digests).any() and len(read_test(data)) == 20


@pytest.fixture
def of_the_version_before(tmp_path: Path) -> tuple[str, Path, DataRef]:
    """Data in a cache without digests."""
    own = tmp_path / "own.py"
    own.write_text(
        "import numpy as np\n\ndef data():\n"
        "    inputs = np.arange(300, dtype=np.float32).reshape(100, 3)\n    return inputs, np.arange(100) % 2\n"
    )
    name, cache = f"{own}:data", tmp_path / "cache"
    data = fetch(name, cache)
    for file in data.folder.glob("*_digests.npy"):
        file.unlink()
    manifest = json.loads((data.folder / "manifest.json").read_text())
    manifest["files"] = {name: digest for name, digest in manifest["files"].items() if "digests" not in name}
    del manifest["data"]["digests_sha256"]
    (data.folder / "manifest.json").write_text(json.dumps(manifest))
    own.write_text(own.read_text() + "\n# the same function\n")
    return name, cache, data


def test_data_of_the_version_before_opens_and_gets_its_digests_once(of_the_version_before):
    name, cache, data = of_the_version_before
    arrays = {file: file.stat().st_mtime_ns for file in data.folder.glob("*_inputs.npy")}
    opened = fetch(name, cache)
    assert opened == data  # the digests are of the same arrays
    assert {file: file.stat().st_mtime_ns for file in arrays} == arrays
    written = (data.folder / "train_digests.npy").stat().st_mtime_ns
    assert fetch(name, cache) == opened and (data.folder / "train_digests.npy").stat().st_mtime_ns == written


def test_a_cache_whose_digests_cannot_be_written_opens(of_the_version_before):
    name, cache, data = of_the_version_before
    (data.folder / ".lock").unlink()
    (data.folder / ".lock").mkdir()  # no file can be locked there
    opened = fetch(name, cache)
    assert opened.digests_sha256 == "" and opened.sha256 == data.sha256
    labels = np.load(data.folder / "train_labels.npy")
    digests = row_digests(np.load(data.folder / "train_inputs.npy"))
    chosen = cut(labels, digests, {"validation": 0.1})["validation"]
    assert np.array_equal(cut_validation(opened, labels)[1], chosen) and not list(data.folder.glob("*_digests.npy"))


def test_other_digests_make_another_key_of_a_training():
    """Data of the version before may have the same arrays: the split that follows from digests may differ."""
    data = DataRef(
        name="toy", folder=Path(), sha256="0", source="", shape=(3,), classes=("a",), train_size=1, test_size=1
    )
    assert data.identity() != data.model_copy(update={"digests_sha256": "1"}).identity()
