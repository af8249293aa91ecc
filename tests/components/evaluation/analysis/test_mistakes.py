import numpy as np
import pytest
from matplotlib.image import imread

from tests.toy import toy_data, toy_numbers, toy_tokens
from torchmill.components.data.encoding import read_encoding
from torchmill.components.data.samples import read_test
from torchmill.components.evaluation.analysis.mistakes import draw_mistakes, percent, tell, worst_mistakes


def test_the_surest_wrong_answers_come_first(tmp_path):
    data = toy_data(tmp_path, classes=3, train=30, test=30)
    outputs = np.array([[5.0, 0, 0], [0, 2.0, 0], [0, 0, 9.0], [1.0, 0, 0]])
    found = worst_mistakes(outputs, np.array([1, 1, 0, 2]), data)
    assert [one.sample for one in found] == [2, 0, 3]
    assert (found[0].answer, found[0].truth) == ("bar 2", "bar 0")
    assert found[0].confidence == pytest.approx(np.exp(9) / (np.exp(9) + 2))


def test_a_sheet_is_drawn_of_as_many_as_there_are(tmp_path):
    data = toy_data(tmp_path, train=30, test=203)
    test = read_test(data)
    outputs = np.random.default_rng(0).normal(size=(203, 10))
    for count in (1, 7, 24):
        draw_mistakes(worst_mistakes(outputs, test.labels.numpy(), data)[:count], test, tmp_path / f"{count}.png")
    heights = [imread(tmp_path / f"{count}.png").shape[0] for count in (1, 7, 24)]
    assert heights[0] < heights[1] < heights[2]


def test_texts_and_numbers_are_told_with_what_was_given(tmp_path):
    (tmp_path / "texts").mkdir()
    texts = toy_tokens(tmp_path / "texts")
    wrong = np.tile([0, 0, 1], (83, 1))
    told = tell(worst_mistakes(wrong, np.zeros(83, int), texts)[:2], read_test(texts), read_encoding(texts))
    assert all(set(one["text"]) <= set("abcde") for one in told)
    numbers = toy_numbers(tmp_path, task="regression", outputs=1)
    test = read_test(numbers)
    outputs = test.labels.numpy().copy()
    outputs[5] += 100
    (first, *_) = tell(worst_mistakes(outputs, test.labels.numpy(), numbers), test, None)
    assert first["sample"] == 5 and first["confidence"] is None and len(first["input"]) == 6


def test_of_several_labels_each_wrong_one_is_a_mistake_of_its_own(tmp_path):
    data = toy_numbers(tmp_path, task="multilabel")
    (first, second) = worst_mistakes(np.array([[3.0, -1, 9]]), np.array([[1.0, 1, 0]]), data)
    assert (first.answer, first.truth) == ("multilabel 2: yes", "multilabel 2: no")
    assert (second.answer, second.truth) == ("multilabel 1: no", "multilabel 1: yes")


@pytest.mark.parametrize(("share", "words"), [(0.5, "50.0 %"), (0.9991, "99.91 %"), (1.0, "100.000 %")])
def test_a_certainty_is_told_with_as_many_digits_as_it_needs(share, words):
    assert percent(share) == words
