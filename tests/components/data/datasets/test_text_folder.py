"""A folder of texts becomes token ids, by a vocabulary of the training texts alone."""

import logging
from pathlib import Path

import numpy as np
import pytest

from torchmill.components.data.fetch import fetch, read_vocabulary
from torchmill.components.errors import UserError

WORDS = {"sport": ["ball", "goal", "team", "match", "player"], "food": ["bread", "soup", "salt", "oven", "plate"]}


def fill(root: Path, each=20, classes=("sport", "food"), seed=0) -> Path:
    rng = np.random.RandomState(seed)
    for name in classes:
        (root / name).mkdir(parents=True)
        for number in range(each):
            text = " ".join(rng.choice(WORDS.get(name, ["thing"]), 6)) + f" {seed}-{number}"
            (root / name / f"{number}.txt").write_text(text)
    return root


def lines(root: Path, each=30) -> Path:
    root.mkdir(parents=True)
    for name, words in WORDS.items():
        (root / f"{name}.txt").write_text("\n".join(f"{words[n % 5]} {words[n // 5 % 5]} {n}" for n in range(each)))
    return root


def load(root: Path, tmp_path: Path, **args):
    return fetch(f"text_folder:{root}", tmp_path / "cache", args=args)


def texts(ref, split: str) -> list[str]:
    vocabulary = read_vocabulary(ref)
    return [vocabulary.decode(row.tolist()) for row in np.load(ref.folder / f"{split}_inputs.npy")]


@pytest.mark.parametrize("make", [fill, lines])
def test_texts_are_cut_into_three(tmp_path, make):
    ref = load(make(tmp_path / "own"), tmp_path, test_fraction=0.2, validation_fraction=0.2)
    total = ref.train_size + ref.validation_size + ref.test_size
    assert (ref.kind, ref.task, ref.classes) == ("tokens", "classification", ("food", "sport"))
    assert all(2 <= size < total / 2 for size in (ref.validation_size, ref.test_size))
    assert ref.shape == (256,)


def test_splits_that_are_there_are_kept_and_validation_is_cut_from_train(tmp_path):
    fill(tmp_path / "own" / "train")
    fill(tmp_path / "own" / "test", each=5, seed=1)
    ref = load(tmp_path / "own", tmp_path)
    assert (ref.train_size, ref.validation_size, ref.test_size) == (33, 7, 10)


def test_files_of_lines_in_splits(tmp_path):
    lines(tmp_path / "own" / "train")
    lines(tmp_path / "own" / "test", each=5)
    assert load(tmp_path / "own", tmp_path).test_size == 10


def test_the_vocabulary_knows_the_training_texts_alone(tmp_path):
    for split, word in (("train", "seen"), ("val", "elsewhere"), ("test", "elsewhere")):
        fill(tmp_path / "own" / split)
        for file in (tmp_path / "own" / split).rglob("*.txt"):
            file.write_text(f"{word} {file.read_text()}")
    ref = load(tmp_path / "own", tmp_path)
    assert "elsewhere" not in read_vocabulary(ref).tokens
    assert all("<unknown>" in text for text in texts(ref, "test"))


def test_texts_that_read_the_same_stay_together(tmp_path):
    root = fill(tmp_path / "own", each=20)
    for file in sorted(root.rglob("*.txt")):
        file.with_stem(f"{file.stem}_again").write_text(file.read_text().upper() + "\n")
    ref = load(root, tmp_path)
    assert not set(texts(ref, "train")) & set(texts(ref, "test"))


def test_arguments_decide_how_a_text_is_cut(tmp_path):
    ref = load(fill(tmp_path / "own"), tmp_path, level="characters", max_length=5, lower_case=False, max_size=8)
    assert (ref.shape, ref.vocabulary_size, read_vocabulary(ref).level) == ((5,), 8, "characters")


def test_a_byte_order_mark_is_no_token(tmp_path):
    root = fill(tmp_path / "own")
    for file in root.rglob("*.txt"):
        file.write_bytes(b"\xef\xbb\xbf" + file.read_bytes())
    assert not [token for token in read_vocabulary(load(root, tmp_path)).tokens if "\ufeff" in token]


def test_another_encoding_is_named_with_its_place(tmp_path):
    root = fill(tmp_path / "own")
    (root / "food" / "3.txt").write_bytes("erste\nKäse".encode("cp1252"))
    with pytest.raises(UserError, match=r"3\.txt line 2 is not UTF-8: byte 7 of the file is 0xe4.*iconv -f CP1252"):
        load(root, tmp_path)
    (root / "food" / "3.txt").write_bytes("Käse".encode("utf-16"))
    with pytest.raises(UserError, match="iconv -f UTF-16"):
        load(root, tmp_path)


def test_empty_files_are_left_out_while_they_are_few(tmp_path, caplog):
    root = fill(tmp_path / "own", each=40)
    (root / "food" / "3.txt").write_text(" \n")
    with caplog.at_level(logging.INFO, "torchmill"):
        ref = load(root, tmp_path)
    assert ref.train_size + ref.validation_size + ref.test_size == 79
    assert "1 of 80 texts are empty" in caplog.text and "3.txt" in (ref.folder / "unreadable.txt").read_text()
    for number in range(9):
        (root / "food" / f"{number}.txt").write_text("")
    with pytest.raises(UserError, match="9 of 80 texts are empty"):
        load(root, tmp_path)
    for file in (root / "food").iterdir():
        file.write_text("")
    with pytest.raises(UserError, match="All texts of the class food are empty"):
        load(root, tmp_path)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda root: None, "There is no folder"),
        (lambda root: root.mkdir(), "There are no class folders"),
        (lambda root: fill(root, classes=("sport",)), "one class alone"),
        (lambda root: lines(root).joinpath("food.txt").unlink(), "all labels are the same, 'sport'"),
        (lambda root: lines(root).joinpath("food.txt").write_text("\n"), "food.txt holds no text"),
        (lambda root: fill(root, each=1), "too few texts to cut any off for"),
        (lambda root: fill(root / "train") and fill(root / "test", classes=("food", "art")), "does not have: art"),
    ],
)
def test_a_folder_that_is_wrong_is_refused_in_words(tmp_path, make, words):
    make(tmp_path / "own")
    with pytest.raises(UserError, match=words):
        load(tmp_path / "own", tmp_path)
