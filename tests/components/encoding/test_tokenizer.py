"""Pretrained tokenizers from files."""

import json

import pytest

from tests.toy_tokenizers import byte_level, wordpiece
from torchmill.components.encoding.tokenizer import Tokenizer
from torchmill.components.encoding.words import form_of, places_of_words
from torchmill.components.errors import UserError

TEXTS = ["Anna Müller lives in Paris .", "Ben Miller-Jones met Anna ( in Rome ) .", "naïve O'Neill isn't here"] * 3


@pytest.mark.parametrize("make", [wordpiece, byte_level])
def test_each_word_is_where_its_first_piece_is(tmp_path, make):
    tokenizer = Tokenizer.read(make(tmp_path, TEXTS))
    for text in (*TEXTS, "Zoë Ångström-Smith writes to   unknown: ÆØÅ."):
        words = text.split()
        pieces = tokenizer.pieces(words, None)
        assert len(pieces.firsts) == len(words) and not pieces.is_cut
        ends = [*pieces.firsts[1:], len(pieces.ids)]
        for word, first, end in zip(words, pieces.firsts, ends, strict=True):
            decoded = tokenizer.decode(pieces.ids[first:end]).replace(" ", "")
            assert decoded == word or (make is wordpiece and "[UNK]" in [tokenizer.tokens[pieces.ids[first]], decoded])


def test_special_tokens_stay_at_the_end_of_texts_that_are_cut(tmp_path):
    tokenizer = Tokenizer.read(wordpiece(tmp_path, TEXTS))
    pieces = tokenizer.pieces(TEXTS[0].split(), 6)
    assert pieces.is_cut and len(pieces.ids) == 6
    assert [tokenizer.tokens[pieces.ids[at]] for at in (0, -1)] == ["[CLS]", "[SEP]"]
    assert pieces.firsts[0] == 1 and pieces.firsts[-1] == -1
    assert not tokenizer.pieces(["Anna"], 6).is_cut
    assert tokenizer.text_pieces("", 6).ids == [2, 3]


def test_padding_and_length_are_those_of_the_file(tmp_path):
    file = wordpiece(tmp_path, TEXTS)
    assert Tokenizer.read(file).padding == 0 and Tokenizer.read(file).max_length is None
    gpt = Tokenizer.read(byte_level(tmp_path, TEXTS))
    assert gpt.tokens[gpt.padding] == "<|endoftext|>" and gpt.padding == len(gpt.tokens) - 1
    assert gpt.text_pieces("", None).ids == [gpt.padding]
    settings = json.loads(file.read_text())
    settings["padding"] = {
        "strategy": "BatchLongest", "direction": "Right", "pad_to_multiple_of": None, "pad_id": 1, "pad_type_id": 0,
        "pad_token": "[UNK]",
    }  # fmt: skip
    settings["truncation"] = {"direction": "Right", "max_length": 9, "strategy": "LongestFirst", "stride": 0}
    file.write_text(json.dumps(settings))
    tokenizer = Tokenizer.read(file)
    assert (tokenizer.padding, tokenizer.max_length) == (1, 9)
    assert len(tokenizer.text_pieces(" ".join(TEXTS), None).ids) > 9  # the file's own truncation is the caller's


def test_files_that_are_no_tokenizers_are_told(tmp_path):
    pytest.importorskip("tokenizers", reason="the extra 'tokenizers' is not installed")
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(UserError, match=r"config\.json is no tokenizer: .*Give the tokenizer\.json"):
        Tokenizer.read(tmp_path / "config.json")
    with pytest.raises(UserError, match=r"missing\.json can't be read: No such file"):
        Tokenizer.read(tmp_path / "missing.json")
    with pytest.raises(UserError, match="can't be read: Is a directory"):
        Tokenizer.read(tmp_path)


def test_words_of_a_line_are_cut_as_those_of_training():
    text = "(Anna met J.-P. in Rome.)  Well… "
    apart = [text[start:end] for start, end in places_of_words(text, "words")]
    assert apart == ["(", "Anna", "met", "J.-P", ".", "in", "Rome", ".", ")", "Well", "…"]
    assert [text[start:end] for start, end in places_of_words(text, "spaces")] == text.split()
    assert form_of([["Anna", "slept", "."], ["U.N.", "met", "."]]) == "words"
    assert form_of([["Anna", "slept."], ["Ben", "too."]]) == "spaces"
