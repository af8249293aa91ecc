"""Texts are cut so that equal texts are in one split."""

import numpy as np
import pytest

from torchmill.components.data.formats.texts import Texts, complete, cut_texts, encode_splits, usual_level
from torchmill.components.errors import UserError

TEXTS = [f"text number {n}" for n in range(50)] + [f"TEXT  number {n}" for n in range(50)]
LABELS = np.arange(100) % 2


def split_of(parts) -> dict[str, set[str]]:
    return {split: {" ".join(text.lower().split()) for text in texts} for split, (texts, *_) in parts.items()}


def test_equal_texts_stay_together():
    held = split_of(cut_texts(TEXTS, LABELS, test_fraction=0.2, validation_fraction=0.1))
    assert not held["train"] & held["test"] and not held["train"] & held["validation"]
    assert sum(map(len, held.values())) == 50


def test_only_missing_splits_are_cut():
    given = {
        "train": Texts(TEXTS, LABELS, [f"line {n}" for n in range(100)]),
        "test": Texts(["other"], np.array([0]), ["file"]),
    }
    parts = complete(given, "here", test_fraction=0.2, validation_fraction=0.1)
    assert parts["test"] == given["test"]
    assert len(parts["train"][0]) + len(parts["validation"][0]) == 100
    assert all(TEXTS[int(name.split()[1])] == text for text, _, name in zip(*parts["train"], strict=True))
    assert complete(parts, "here", test_fraction=0.2, validation_fraction=0.1) == parts


def test_too_few_texts_are_an_error():
    with pytest.raises(UserError, match="here has too few texts to cut any off for test"):
        complete({"train": Texts(["a", "b"], np.array([0, 1]))}, "here", test_fraction=0.2, validation_fraction=0.1)
    with pytest.raises(UserError, match="of its 60, 2 are distinct, and equal texts stay together"):
        complete({"train": Texts(["a", "b"] * 30, LABELS[:60])}, "here", test_fraction=0.2, validation_fraction=0.1)


def test_the_vocabulary_is_of_the_training_texts():
    held = {"train": ["a b"], "validation": ["c"], "test": ["d"]}
    parts = {split: Texts(texts, np.array([0])) for split, texts in held.items()}
    splits = encode_splits(parts, ("x",), "words", lower_case=True, max_length=4)
    assert splits.vocabulary and set(splits.vocabulary.tokens[2:]) == {"a", "b"}


def test_names_are_characters_and_sentences_words():
    assert usual_level(["Anna", "de Vries"]) == "characters"
    assert usual_level(["a whole sentence", "and another one"]) == "words"
