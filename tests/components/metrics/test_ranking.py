import numpy as np
import pytest
from scipy.special import softmax
from sklearn.metrics import average_precision_score, roc_auc_score

from torchmill.components.metrics.ranking import rank


def drawn(classes: int, samples: int = 400) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    truth = rng.integers(0, classes, samples)
    scores = softmax(rng.normal(size=(samples, classes)) + 1.5 * np.eye(classes)[truth], axis=1)
    return scores, truth


def test_areas_are_those_of_scikit_learn():
    scores, truth = drawn(4)
    found = rank(scores, truth[:, None] == np.arange(4))
    assert found
    assert found.macro_auc == pytest.approx(roc_auc_score(truth, scores, multi_class="ovr"))
    assert found.macro_precision == pytest.approx(average_precision_score(np.eye(4)[truth], scores))


def test_the_curves_rise_and_fall_and_hold_the_areas():
    scores, truth = drawn(4, 4000)
    found = rank(scores, truth[:, None] == np.arange(4))
    assert found and len(found.true_positive_rate) == len(found.precision) == 101
    assert (np.diff(found.true_positive_rate) >= 0).all() and found.true_positive_rate[-1] == 1
    assert (np.diff(found.precision) <= 0).all()
    assert np.mean(found.true_positive_rate) == pytest.approx(found.macro_auc, abs=0.01)
    assert np.mean(found.precision) == pytest.approx(found.macro_precision, abs=0.02)


def test_a_class_without_samples_is_left_out():
    scores, truth = drawn(4)
    found = rank(scores, np.minimum(truth, 2)[:, None] == np.arange(4))
    assert found and list(found.roc_auc) == [0, 1, 2]


def test_nothing_is_told_where_nothing_can_be():
    scores, truth = drawn(101)
    assert rank(scores, truth[:, None] == np.arange(101)) is None
    assert rank(np.ones((5, 1)), np.ones((5, 1), bool)) is None
    assert rank(np.full((4, 2), np.nan), np.eye(2, dtype=bool)[[0, 1, 0, 1]]) is None
