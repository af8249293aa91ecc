"""Texts of named fields become ids: whole texts, and words by a pretrained tokenizer."""

import numpy as np
import pytest
import torch

from tests.toy_tokenizers import byte_level, wordpiece
from torchmill.components.data.datasets import conll
from torchmill.components.data.fetch import fetch
from torchmill.components.data.field_samples import read_fields
from torchmill.components.data.formats.user_fields import load_fields
from torchmill.components.data.named_fields import IGNORED, facts
from torchmill.components.encoding.tokenizer import FILE, Tokenizer
from torchmill.components.encoding.vocabulary import UNKNOWN
from torchmill.components.errors import UserError
from torchmill.components.field_tasks.choice import for_other_data, for_task
from torchmill.components.field_tasks.config import TaskConfig

WORDS = [["Anna", "visited", "Paris", "."], ["Miller-Jones", "stayed"], ["Visitors", "from", "Rome", "came"]]
TAGS = [["B-PER", "O", "B-LOC", "O"], ["B-PER", "O"], ["O", "O", "B-LOC", "O"]]


def same(part):
    return dict.fromkeys(("train", "validation", "test"), part)


@pytest.mark.parametrize("make", [wordpiece, byte_level])
def test_labels_of_words_are_at_their_first_pieces(tmp_path, make):
    file = make(tmp_path, [" ".join(words) for words in WORDS])
    splits = load_fields({**same({"tokens": WORDS, "tags": TAGS}), "tokenizer": str(file)}, "own")
    tokens, tags, _ = splits.fields
    tokenizer = Tokenizer.read(file)
    assert (tokens.size, tokens.padding, tokens.text) == (len(tokenizer.tokens), tokenizer.padding, "words")
    assert tokens.names == tokenizer.tokens and tags.names == ("O", "B-LOC", "B-PER")
    arrays = splits.arrays["train"]
    for row, (words, labels) in enumerate(zip(WORDS, TAGS, strict=True)):
        length = arrays["lengths"][row]
        ids, spread = arrays["tokens"][row], arrays["tags"][row, :length]
        assert ids[:length].tolist() == tokenizer.pieces(words, None).ids and (ids[length:] == tokens.padding).all()
        assert [tags.names[label] for label in spread if label != IGNORED] == labels
        firsts = np.flatnonzero(spread != IGNORED)
        assert firsts.tolist() == tokenizer.pieces(words, None).firsts
    assert f"{len(tokenizer.tokens):,} tokens" in splits.notes[0]


def test_the_tokenizer_lies_with_the_data_and_gives_the_size(tmp_path):
    file = wordpiece(tmp_path, [" ".join(words) for words in WORDS])
    (tmp_path / "own.py").write_text(
        "def texts():\n    return {'text': [f'Anna visited Rome {n}' for n in range(60)], 'label': ['a', 'b'] * 30}\n"
    )
    data = fetch(f"{tmp_path}/own.py:texts", tmp_path / "cache", args={"tokenizer": str(file)})
    assert (data.folder / FILE).read_text() == file.read_text()
    asked = facts(data)
    assert asked["vocab_size"] == len(Tokenizer.read(file).tokens) and asked["padding_index"] == 0
    text, label, *_ = data.field_refs
    assert (text.text, label.names, data.validation_size > 0) == ("whole", ("a", "b"), True)
    file.write_text(file.read_text().replace("[UNK]", "[UNKNOWN]"))  # another tokenizer makes other data
    changed = fetch(f"{tmp_path}/own.py:texts", tmp_path / "cache", args={"tokenizer": str(file)})
    assert changed.sha256 != data.sha256


def test_columns_of_conll_take_a_tokenizer(tmp_path):
    file = wordpiece(tmp_path, [" ".join(words) for words in WORDS])
    rows = "\n\n".join("\n".join(map(" ".join, zip(*pair, strict=True))) for pair in zip(WORDS, TAGS, strict=True))
    for name in ("train.txt", "dev.txt", "test.txt"):
        (tmp_path / name).write_text(rows)
    splits = conll.load(tmp_path, tokenizer=str(file))
    assert splits.fields[0].size == len(Tokenizer.read(file).tokens)
    cut = conll.load(tmp_path, tokenizer=str(file), max_length=5)
    assert cut.fields[0].shape == cut.fields[1].shape == (5,)
    assert "are cut after 5 tokens (max_length)" in cut.notes[1]


def test_whole_texts_are_cut_into_words_or_characters():
    texts = ["Anna met Ben yesterday.", "anna met nobody.", "Ben met Anna in Rome."]
    splits = load_fields({**same({"text": texts, "label": ["a", "b", "a"]}), "max_length": 4}, "own")
    text = splits.fields[0]
    assert text.text == "whole" and text.names[2:] == (".", "anna", "met", "ben")[:0] + text.names[2:]
    assert set(text.names[2:]) == {"anna", "met", "ben", "."} and text.shape == (4,)
    letters = load_fields({**same({"name": ["Ann", "Bea", "Cem"], "label": ["x", "y", "x"]})}, "own").fields[0]
    assert set("".join(letters.names[2:])) <= set("AnBeaCm")
    kept = load_fields({**same({"text": texts, "label": ["a", "b", "a"]}), "lower_case": False}, "own")
    assert UNKNOWN in kept.arrays["train"]["text"][1] and "Anna" in kept.fields[0].names


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"train": {"tokens": WORDS, "tags": [*TAGS[:2], ["O"]]}}, "sample 2 has the length 1, and 4 words"),
        ({"level": "words"}, "a tokenizer has its own level"),
        ({"max_length": 0}, "max_length is 0, not a whole number from 1"),
        ({"train": {"x": np.arange(3.0), "tags": TAGS}}, "has no texts for the tokenizer"),
    ],
)
def test_what_does_not_fit_a_tokenizer_is_told(tmp_path, changes, message):
    file = wordpiece(tmp_path, [" ".join(words) for words in WORDS])
    train = changes.pop("train", {"tokens": WORDS, "tags": TAGS})
    with pytest.raises(UserError, match=message):
        load_fields({**same(train), "tokenizer": str(file), **changes}, "own")


def test_other_data_gets_the_ids_of_training(tmp_path):
    for name, rows in (("train", 1), ("other", 2)):
        words, tags = WORDS[::rows] * 20, TAGS[::rows] * 20
        (tmp_path / f"{name}.py").write_text(
            f"def texts():\n    part = {{'tokens': {words}, 'tags': {tags}}}\n"
            "    return {'train': part, 'validation': part, 'test': part}\n"
        )
    trained, other = (fetch(f"{tmp_path}/{name}.py:texts", tmp_path / "cache") for name in ("train", "other"))
    trained = for_task(trained, TaskConfig(name="token_labels"))
    assert other.field_refs[0].names != trained.field_refs[0].names
    data = for_other_data(other, trained)
    batch = read_fields(data, "test").take(torch.arange(2))
    names = trained.field_refs[0].names
    assert [names[token] for token in batch["tokens"][0]] == WORDS[0]
    assert [trained.field_refs[1].names[tag] for tag in batch["tags"][1]] == TAGS[2]
    with pytest.raises(UserError, match=r"'tags' of .*train\.py:texts has classes that training lacks: B-LOC"):
        (tmp_path / "other.py").write_text((tmp_path / "other.py").read_text().replace("LOC", "PLACE"))
        changed = for_task(fetch(f"{tmp_path}/other.py:texts", tmp_path / "cache"), TaskConfig(name="token_labels"))
        for_other_data(trained, changed)


def test_few_texts_are_taken_for_labels():
    with pytest.raises(UserError, match=r"'speaker' holds 2 different texts alone: a, b\. Name it among the 'targets'"):
        load_fields(same({"x": np.arange(20.0), "speaker": ["a", "b"] * 10}), "own")


def test_pairs_of_texts_and_labels_take_no_tokenizer(tmp_path):
    file = wordpiece(tmp_path, [" ".join(words) for words in WORDS])
    (tmp_path / "own.py").write_text("def pairs():\n    return ['a b', 'c d'] * 20, [0, 1] * 20\n")
    with pytest.raises(UserError, match=r"Return \{'text': texts, 'label': labels\}"):
        fetch(f"{tmp_path}/own.py:pairs", tmp_path / "cache", args={"tokenizer": str(file)})
