"""Texts become token ids and back."""

import numpy as np
import pytest

from torchmill.components.encoding.vocabulary import UNKNOWN, Vocabulary, tokenize


def words(*texts: str, **options) -> Vocabulary:
    return Vocabulary.of(texts, "words", **{"lower_case": True, "max_length": 8, **options})


def test_the_most_frequent_come_first_and_equals_by_the_alphabet():
    assert words("b a c", "c b", "C").tokens == ("<padding>", "<unknown>", "c", "b", "a")


def test_what_was_not_seen_is_unknown_and_short_texts_are_padded():
    known = words("a b c")
    assert known.encode(["a x", "b"]).tolist() == [[2, UNKNOWN], [3, 0]]
    assert known.encode(["a x", "b"]).dtype == np.int32


def test_an_empty_text_has_a_token_that_is_no_padding():
    assert words("a").encode(["", "a"]).tolist() == [[UNKNOWN], [2]]


def test_no_more_than_so_many_tokens():
    assert words("a b c d", max_size=4).tokens == ("<padding>", "<unknown>", "a", "b")
    assert words("a b c", max_length=2).encode(["a b c"]).shape == (1, 2)


def test_one_text_written_in_two_ways_is_one():
    assert tokenize("Cafe\u0301  noir\n", "words", True) == tokenize("Café noir", "words", True) == ["café", "noir"]


@pytest.mark.parametrize("level", ["words", "characters"])
def test_it_is_the_same_after_it_was_written_down(level):
    known = Vocabulary.of(["Ünal, A.", "日本"], level, lower_case=False, max_length=9)
    again = Vocabulary.from_json(known.as_json())
    assert again == known
    assert again.decode(again.encode(["日本"])[0].tolist()) == "日本"
