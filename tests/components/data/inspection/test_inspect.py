"""Planted copies, leaks and wrong labels are found; similar samples are not called copies."""

import io
import json
import logging
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from torchmill.components.data.content import row_digests
from torchmill.components.data.datasets.digits import find_file, grow, read_rows
from torchmill.components.data.fetch import fetch
from torchmill.components.data.inspection.findings import Findings
from torchmill.components.data.inspection.inspect import inspect
from torchmill.components.data.splits import cut

VALIDATION, SEED = 0.1, 0


def look(name: str, tmp_path: Path, **args) -> Findings:
    ref = fetch(name, tmp_path / "cache", args=args)
    return inspect(ref.with_split(VALIDATION, seed=SEED), tmp_path / "found")


def inspected(tmp_path: Path, **arrays) -> Findings:
    """Inspect arrays called train, train_labels, test and test_labels, as a user's function returns them."""
    np.savez(tmp_path / "data.npz", **arrays)
    (tmp_path / "mine.py").write_text(
        f"import numpy as np\n\ndef data():\n    held = np.load({str(tmp_path / 'data.npz')!r})\n"
        "    return {'train': (held['train'], held['train_labels']), 'test': (held['test'], held['test_labels'])}\n"
    )
    return look(f"{tmp_path / 'mine.py'}:data", tmp_path)


def photos(count: int, size: int = 64, seed: int = 0) -> np.ndarray:
    """Colour images, smooth as photographs are (N, 3, size, size)."""
    rng = np.random.RandomState(seed)
    made = []
    for _ in range(count):
        rough = Image.fromarray(rng.randint(0, 256, (7, 7, 3)).astype(np.uint8))
        smooth = np.asarray(rough.resize((size, size), Image.Resampling.BICUBIC)).astype(int)
        made.append((smooth + rng.randint(-8, 9, smooth.shape)).clip(0, 255).astype(np.uint8).transpose(2, 0, 1))
    return np.stack(made)


def picture(image: np.ndarray) -> Image.Image:
    return Image.fromarray(np.ascontiguousarray(image.transpose(1, 2, 0)))


def pixels(image: Image.Image) -> np.ndarray:
    return np.asarray(image).transpose(2, 0, 1)


def recompressed(image: np.ndarray) -> np.ndarray:
    content = io.BytesIO()
    picture(image).save(content, "JPEG", quality=70)
    return pixels(Image.open(content))


def brightened(image: np.ndarray) -> np.ndarray:
    return (image * 1.05 + 8).clip(0, 255).astype(np.uint8)


def resized(image: np.ndarray) -> np.ndarray:
    size = image.shape[1:]
    return pixels(picture(image).resize((size[0] * 3 // 4,) * 2, Image.Resampling.BILINEAR).resize(size))


def shifted(image: np.ndarray) -> np.ndarray:
    return np.roll(image, 1, axis=2)


@pytest.mark.parametrize("change", [recompressed, brightened, resized, shifted])
def test_a_changed_copy_of_a_training_image_is_found_in_the_test_split(tmp_path, change):
    train, test = photos(60), photos(40, seed=1)
    labels = np.arange(60) % 2
    for number in range(10):
        test[number] = change(train[3 * number])
    found = inspected(tmp_path, train=train, train_labels=labels, test=test, test_labels=np.arange(40) % 2)
    copies = {(leak[0], leak[2]) for leak in found.leaks}
    assert copies <= {(number, 3 * number) for number in range(10)}
    assert len(copies) >= (8 if change is shifted else 10)  # a shift by half a compared pixel may be too much
    _, validation = cut(labels, row_digests(train), {"validation": VALIDATION}, SEED).values()
    for leak in found.leaks:
        assert leak.split == ("validation" if leak.other_row in validation else "train")
        assert 0.9 < leak.likeness < 1
    assert found.leakage == pytest.approx(len(copies) / 40)
    assert sum(found.near_across.values()) == len(copies) and found.equal_across["train-test"] == 0


def test_equal_images_are_found_within_and_across(tmp_path):
    train, test = photos(60), photos(40, seed=1)
    labels = np.arange(60) % 2
    training, validation = cut(labels, row_digests(train), {"validation": VALIDATION}, SEED).values()
    train[training[1]] = train[training[0]]
    test[5], test[6] = train[training[0]], train[validation[0]]
    found = inspected(tmp_path, train=train, train_labels=labels, test=test, test_labels=np.arange(40) % 2)
    assert found.copies_within == {"train": 1, "validation": 0, "test": 0}
    assert found.equal_across == {"train-validation": 0, "train-test": 1, "validation-test": 1}
    assert found.leakage == pytest.approx(2 / 40)
    assert [leak[3] for leak in found.leaks] == [1.0, 1.0]


def test_images_of_other_colours_are_no_copies(tmp_path):
    train = np.zeros((40, 3, 32, 32), np.uint8)
    shape = photos(1, 32)[0] // 4
    for number in range(40):
        train[number] = shape
        train[number, number % 3] += np.uint8(100 + number)
    other = np.stack([shape + np.array([60, 60, 60], np.uint8)[:, None, None]] * 2)
    found = inspected(tmp_path, train=train, train_labels=np.arange(40) % 2, test=other, test_labels=np.array([0, 1]))
    assert found.leakage == 0


def test_the_digits_have_no_copies_and_take_no_time(tmp_path):
    ref = fetch("digits", tmp_path / "cache")
    inspect(ref.with_split(VALIDATION, seed=SEED), tmp_path / "found")  # imports, fonts
    began = time.process_time()
    found = inspect(ref.with_split(VALIDATION, seed=SEED), tmp_path / "found")
    assert time.process_time() - began < 2
    assert found.leakage < 0.005
    assert sum(found.sizes.values()) == 1797 and found.compared == 355
    assert 0.09 < found.majority_share < 0.11 and 1 <= found.imbalance < 1.2
    assert found.suspect_count < 15


def test_labels_that_were_changed_are_suspected(tmp_path):
    rows = read_rows(find_file())
    images, labels = grow(rows[:, :64].reshape(-1, 8, 8))[:, None], rows[:, 64].astype(np.int64)
    rng = np.random.RandomState(0)
    wrong = rng.choice(1400, 28, replace=False)
    noisy = labels.copy()
    noisy[wrong] = (labels[wrong] + rng.randint(1, 10, 28)) % 10
    found = inspected(
        tmp_path, train=images[:1400], train_labels=noisy[:1400], test=images[1400:], test_labels=labels[1400:]
    )
    suspected = {one.row: (one.label, one.neighbours) for one in found.suspects}
    hit = set(wrong.tolist()) & set(suspected)
    assert len(hit) >= 24
    assert found.suspect_count <= 45
    assert all(suspected[row] == (str(noisy[row]), str(labels[row])) for row in list(hit)[:5])
    assert {row for row, *_ in found.suspects[:15]} <= set(wrong.tolist())


def test_labels_are_not_doubted_by_neighbours_that_know_nothing_of_them(tmp_path):
    rng = np.random.RandomState(0)
    labels = np.arange(60) % 3
    colours = rng.randint(0, 60, (60, 3, 16, 16)).astype(np.uint8)
    colours[np.arange(60), labels] += 150  # plain to see, and not in grey
    found = inspected(tmp_path, train=colours, train_labels=labels, test=colours[:3] // 2, test_labels=labels[:3])
    assert found.suspects == () and found.suspect_count == 0
    numbers = rng.rand(600, 8).astype(np.float32)
    found = inspected(
        tmp_path, train=numbers, train_labels=rng.randint(0, 3, 600), test=numbers[:3] + 1, test_labels=labels[:3]
    )
    assert found.suspect_count == 0


def test_equal_inputs_with_different_labels_contradict_each_other(tmp_path):
    train = np.random.RandomState(0).rand(60, 4).astype(np.float32)
    labels = np.arange(60) % 2
    training, _ = cut(labels, row_digests(train), {"validation": VALIDATION}, SEED).values()
    even, odd = training[labels[training] == 0][0], training[labels[training] == 1][0]
    train[odd] = train[even]
    found = inspected(tmp_path, train=train, train_labels=labels, test=train[:5] + 1, test_labels=labels[:5])
    assert found.contradictions == 2
    assert found.contradicting == (tuple(sorted((int(even), int(odd)))),)


def test_features_that_tell_nothing_are_named(tmp_path):
    train = np.random.RandomState(0).rand(60, 5).astype(np.float32)
    train[:, 1], train[:, 4] = 3, train[:, 2]
    found = inspected(
        tmp_path, train=train, train_labels=np.arange(60) % 2, test=train[:2] + 1, test_labels=np.arange(2)
    )
    assert (found.constant_features, found.constant_count) == ((1,), 1)
    assert found.equal_features == ((2, 4),)
    assert (tmp_path / "found" / "samples.png").stat().st_size > 1000


def test_targets_of_a_regression_have_no_classes(tmp_path):
    train = np.random.RandomState(0).rand(60, 3).astype(np.float32)
    found = inspected(tmp_path, train=train, train_labels=train[:, 0], test=train[:4], test_labels=train[:4, 0])
    assert (found.counts, found.suspects, found.majority_share) == ({}, (), 0)
    assert found.leakage == 1


def test_several_labels_are_counted_each(tmp_path):
    train = np.random.RandomState(0).rand(60, 3).astype(np.float32)
    labels = np.stack([np.ones(60), np.arange(60) % 2], 1).astype(np.int64)
    found = inspected(tmp_path, train=train, train_labels=labels, test=train[:4] + 1, test_labels=labels[:4])
    assert found.counts["train"] == {"label 0": 56, "label 1": 27}


@pytest.mark.parametrize(("copy", "leaks"), [("A Text, of number 3; with words!", 1), ("quite another text here", 0)])
def test_texts_that_differ_in_case_and_punctuation_are_copies(tmp_path, copy, leaks):
    root = tmp_path / "own"
    for split, count in (("train", 30), ("val", 5), ("test", 4)):
        for label in ("a", "b"):
            (root / split / label).mkdir(parents=True)
            for number in range(count):
                (root / split / label / f"{number}.txt").write_text(
                    f"{label} text of number {number} with words in {split}"
                )
    (root / "train" / "a" / "3.txt").write_text("a text of number 3 with words")
    (root / "train" / "b" / "3.txt").write_text("known signs: , ; !")
    (root / "test" / "a" / "0.txt").write_text(copy)
    found = look(f"text_folder:{root}", tmp_path)
    assert sum(found.near_across.values()) == leaks
    assert found.leakage == leaks / 8
    assert "a text of number 0 with words in train" in (tmp_path / "found" / "samples.txt").read_text()


def test_it_is_written_down_and_always_the_same(tmp_path):
    first = look("digits", tmp_path)
    written = (tmp_path / "found" / "inspection.json").read_bytes()
    look("digits", tmp_path)
    assert (tmp_path / "found" / "inspection.json").read_bytes() == written
    told = json.loads(written)
    assert told["leakage"] == first.leakage and "seconds" not in told
    with Image.open(tmp_path / "found" / "samples.png") as sheet:
        assert sheet.width > 500


def test_flat_images_are_compared_for_equality_alone(tmp_path, caplog):
    train = np.full((20, 1, 16, 16), 9, np.uint8) + np.arange(20, dtype=np.uint8)[:, None, None, None]
    with caplog.at_level(logging.WARNING):
        found = inspected(
            tmp_path, train=train, train_labels=np.arange(20) % 2, test=train[:3] + 100, test_labels=np.array([0, 1, 0])
        )
    assert found.leakage == 0 and not caplog.text


@pytest.mark.slow
def test_mnist_has_next_to_no_copies_and_names_none(tmp_path, datasets, monkeypatch):
    monkeypatch.setenv("TORCHMILL_MIRROR", datasets.as_uri())
    began = time.process_time()
    found = look("mnist", tmp_path)
    assert found.leakage < 0.002 and found.compared == 10_000
    assert found.suspect_count < 300
    assert time.process_time() - began < 60
    names = look("names", tmp_path)
    assert names.leakage == 0
    assert names.contradictions > 500  # the same name in several languages
