"""Plain texts become windows of tokens, for language models."""

import random

import numpy as np
import pytest

from tests.components.tasks.trials import Trial
from tests.toy_tokenizers import byte_level
from torchmill.components.data.datasets import text
from torchmill.components.data.fetch import fetch
from torchmill.components.encoding.words import spelled
from torchmill.components.errors import UserError


def story(sentences: int, seed: int = 0) -> str:
    rng = random.Random(seed)
    who, what = ("Anna", "Ben", "the dog", "a Zebra"), ("sleeps", "runs home", "eats")
    return "".join(f"{rng.choice(who)} {rng.choice(what)} .\n" for _ in range(sentences))


def written(splits, split: str) -> str:
    (field,) = splits.fields
    return spelled([field.names[token] for token in splits.arrays[split]["tokens"].ravel()])


def test_the_end_of_each_file_is_cut_off(tmp_path):
    for name in ("one.txt", "two.txt"):
        (tmp_path / name).write_text(story(200, len(name)))
    splits = text.load(tmp_path, window=20)
    sizes = {split: part["tokens"].size for split, part in splits.arrays.items()}
    assert sizes["test"] / sum(sizes.values()) == pytest.approx(0.1, abs=0.02)
    whole = [(tmp_path / name).read_text() for name in ("one.txt", "two.txt")]
    assert whole[0].startswith(written(splits, "train")[:2000]) and "\n" in written(splits, "train")
    assert written(splits, "test")[:200] in whole[0] and written(splits, "test")[-100:] in whole[1]
    assert splits.notes[0].startswith("texts become characters in upper and lower case; a token has 1")


def test_files_and_folders_name_splits(tmp_path):
    letters = "".join(sorted(set("train/a.txtvalid.txttest/c.txt")))
    for place in ("train/a.txt", "train/b.txt", "valid.txt", "test/c.txt"):
        (tmp_path / place).parent.mkdir(exist_ok=True)
        (tmp_path / place).write_text(f"{place} {letters} " * 20)
    splits = text.load(tmp_path, window=8)
    assert {split: written(splits, split)[:8] for split in splits.arrays} == {
        "train": "train/a.", "validation": "valid.tx", "test": "test/c.t"
    }  # fmt: skip


def test_words_and_subwords_are_tokens(tmp_path):
    (tmp_path / "all.txt").write_text(story(300))
    words = text.load(tmp_path / "all.txt", level="words", lower_case=True, window=10)
    assert {"zebra", "anna", "."} < set(words.fields[0].names)
    file = byte_level(tmp_path, [story(300)], size=300)
    pieces = text.load(tmp_path / "all.txt", tokenizer=str(file), window=10)
    assert pieces.fields[0].size == len(pieces.encoding.tokens) and "Ġruns" in pieces.fields[0].names
    assert written(pieces, "train")[:1000] == story(300)[:1000]
    assert "a token has" in pieces.notes[0] and "BPE" in pieces.notes[0]


def test_blocks_change_no_token(tmp_path, monkeypatch):
    file = byte_level(tmp_path, [story(50)], size=300)
    (tmp_path / "all.txt").write_text(story(100))
    whole = text.load(tmp_path / "all.txt", tokenizer=str(file), window=10)
    monkeypatch.setattr(text, "BLOCK", 70)
    blocks = text.load(tmp_path / "all.txt", tokenizer=str(file), window=10)
    assert np.array_equal(whole.arrays["train"]["tokens"], blocks.arrays["train"]["tokens"])


def test_faulty_texts_are_told(tmp_path):
    with pytest.raises(UserError, match="There are no texts in"):
        text.load(tmp_path)
    (tmp_path / "test.txt").write_text("a " * 50)
    with pytest.raises(UserError, match="has texts for test alone"):
        text.load(tmp_path)
    (tmp_path / "train.txt").write_text("a " * 50)
    with pytest.raises(UserError, match="validation has 11 tokens, and a window needs 20"):
        text.load(tmp_path, window=20)
    with pytest.raises(UserError, match=r"Did you mean train\.txt"):
        text.load(tmp_path / "trein.txt")


@pytest.mark.parametrize("with_tokenizer", [False, True])
def test_a_language_model_learns_them_and_is_exported(tmp_path, with_tokenizer):
    (tmp_path / "all.txt").write_text(story(250))
    args = {"window": 24}
    if with_tokenizer:
        args["tokenizer"] = str(byte_level(tmp_path, [story(300)], size=280))
    data = fetch(f"text:{tmp_path}/all.txt", tmp_path / "cache", args=args)
    small = {"width": 16, "heads": 2, "layers": 1}
    trial = Trial.with_data(tmp_path, data, "language_model", "gpt", model_args=small)
    before = trial.evaluate()["bits"]
    trial.train(60, size=32)
    report = trial.evaluate()
    assert report["bits"] < 0.6 * before and "samples_written.png" in report["pictures"]
    _, answers = trial.export()
    assert answers["logits"].shape[1:] == (25, data.field_refs[0].size)
