import numpy as np
import torch

from tests.toy import toy_data, toy_tokens
from torchmill.components.data.samples import Samples, read_test
from torchmill.components.evaluation.analysis.error_slices import error_slices, thirds
from torchmill.components.metrics.intervals import wilson_interval


def test_dark_images_that_are_wrong_stand_out_and_others_do_not(tmp_path):
    data = toy_data(tmp_path, test=300, train=30)
    test = read_test(data)
    factor = torch.linspace(0.3, 1, 300)[:, None, None, None]
    dim = Samples((test.inputs * factor).to(torch.uint8), test.labels)
    wrong = np.zeros(300, bool)
    wrong[:100:3] = True
    groups = {(one.by, one.name): one for one in error_slices(wrong, dim, data)}
    bright = [one for (by, _), one in groups.items() if by == "brightness"]
    assert [one.stands_out for one in bright] == [True, True, True]
    assert bright[0].rate > 0.3 > bright[1].rate and sum(one.samples for one in bright) == 300
    classes = [one for (by, _), one in groups.items() if by == "class"]
    assert [one.name for one in classes] == list(data.classes)
    assert sum(one.errors for one in classes) == wrong.sum()
    assert all(one.rate_95 == wilson_interval(one.errors, one.samples) for one in groups.values())


def test_chance_alone_lets_hardly_anything_stand_out(tmp_path):
    data = toy_data(tmp_path, test=300, train=30)
    test, rng = read_test(data), np.random.default_rng(0)
    runs = [any(one.stands_out for one in error_slices(rng.random(300) < 0.1, test, data)) for _ in range(40)]
    assert sum(runs) <= 4


def test_texts_are_told_apart_by_length(tmp_path):
    data = toy_tokens(tmp_path)
    test = read_test(data)
    groups = [one for one in error_slices(test.lengths.numpy() < 4, test, data) if one.by == "length"]
    assert groups[0].name.startswith("1 to ") and groups[0].stands_out


def test_equal_values_stay_together():
    assert [int(chosen.sum()) for _, chosen in thirds(np.array([1.0] * 8 + [2.0]))] == [8, 1]
    assert [int(chosen.sum()) for _, chosen in thirds(np.ones(5))] == [5]
    assert [int(chosen.sum()) for _, chosen in thirds(np.arange(9.0))] == [3, 3, 3]


def test_where_nothing_or_all_is_wrong_nothing_stands_out(tmp_path):
    data = toy_data(tmp_path, test=60, train=30)
    for wrong in (np.zeros(60, bool), np.ones(60, bool)):
        assert not any(one.stands_out for one in error_slices(wrong, read_test(data), data))
