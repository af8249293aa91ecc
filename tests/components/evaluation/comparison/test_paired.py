import numpy as np
import pytest
from sklearn.metrics import f1_score

from torchmill.components.errors import UserError
from torchmill.components.evaluation.comparison.paired import pair
from torchmill.components.metrics.paired import Difference, difference_interval, mcnemar
from torchmill.components.metrics.predictions import Predictions

RNG = np.random.default_rng(0)
TRUTH = RNG.integers(0, 4, 500)


def classifier(noise: float, seed: int) -> Predictions:
    outputs = np.eye(4)[TRUTH] * 2 + noise * np.random.default_rng(seed).normal(size=(500, 4))
    return Predictions(outputs.astype(np.float32), TRUTH, 1.0)


def test_mcnemar_is_the_published_one():
    # 10 samples on which they differ, 8 to 2: twice the binomial tail, 112 / 1024.
    first = np.array([True] * 8 + [False] * 2 + [True] * 5 + [False])
    second = np.array([False] * 8 + [True] * 2 + [True] * 5 + [False])
    found = mcnemar(first, second)
    assert (found.only_first, found.only_second, found.both, found.neither) == (8, 2, 5, 1)
    assert found.p == pytest.approx(112 / 1024)
    assert mcnemar(first, first).p == 1.0


@pytest.mark.parametrize("sets", [pytest.param(1000, marks=pytest.mark.slow), 200])
def test_the_interval_of_a_difference_holds_it_and_agrees_with_the_exact_test(sets: int):
    rng, held = np.random.default_rng(0), 0
    for _ in range(sets):
        kinds = rng.choice(4, 300, p=[0.06, 0.03, 0.85, 0.06])
        found = mcnemar((kinds == 0) | (kinds == 2), (kinds == 1) | (kinds == 2))
        low, high = difference_interval(found)
        held += low <= -0.03 <= high
        assert low <= 0 <= high or found.p < 0.05  # what the test does not tell apart, the interval doesn't either
    assert 0.94 <= held / sets <= 0.99


def test_a_better_network_is_told_as_such_and_an_equal_one_is_not():
    better = {one.measure: one for one in pair(classifier(2.0, 1), classifier(1.0, 2), "classification").differences}
    assert all(one.verdict == "better" for one in better.values())
    assert better["accuracy"].difference > 0 > better["cross-entropy"].difference
    worse = pair(classifier(1.0, 2), classifier(2.0, 1), "classification")
    assert {one.verdict for one in worse.differences} == {"worse"} and worse.mcnemar and worse.mcnemar.p < 1e-6
    alike = pair(classifier(1.5, 1), classifier(1.5, 2), "classification").differences
    assert {one.verdict for one in alike} == {"not told apart"}
    same = pair(classifier(1.5, 1), classifier(1.5, 1), "classification")
    assert all(one.difference == 0 and one.verdict == "not told apart" for one in same.differences)


def test_macro_f1_is_that_of_scikit_learn():
    first, second = classifier(2.0, 1), classifier(1.0, 2)
    (found,) = [one for one in pair(first, second, "classification").differences if one.measure == "macro F1"]
    scores = [f1_score(TRUTH, one.outputs.argmax(1), average="macro") for one in (first, second)]
    assert [found.first, found.second] == pytest.approx(scores)
    assert found.difference == pytest.approx(scores[1] - scores[0])
    assert found.difference_95[0] < found.difference < found.difference_95[1]


def test_samples_are_named_that_only_one_answers_rightly():
    first, second = classifier(2.0, 1), classifier(1.0, 2)
    found = pair(first, second, "classification")
    assert found.only_second and all(
        second.outputs[row].argmax() == TRUTH[row] != first.outputs[row].argmax() for row in found.only_second
    )


def test_labels_and_targets_are_paired_too():
    truth = RNG.normal(size=(200, 2)).astype(np.float32)
    near, far = (Predictions(truth + noise * RNG.normal(size=(200, 2)), truth, 1.0) for noise in (0.1, 0.5))
    assert {one.verdict for one in pair(far, near, "regression").differences} == {"better"}
    labels = (truth > 0).astype(np.float32)
    good, poor = (Predictions(truth + noise * RNG.normal(size=(200, 2)), labels, 1.0) for noise in (0.1, 2))
    assert {one.verdict for one in pair(good, poor, "multilabel").differences} == {"worse"}


def test_runs_on_other_samples_are_refused_in_words():
    first = classifier(1.0, 1)
    for other in (Predictions(first.outputs[:400], TRUTH[:400], 1.0), Predictions(first.outputs, TRUTH[::-1], 1.0)):
        with pytest.raises(UserError, match="were tested on other samples"):
            pair(first, other, "classification")
    with pytest.raises(UserError, match="other numbers of classes"):
        pair(first, Predictions(first.outputs[:, :3], TRUTH, 1.0), "classification")


def test_what_is_better_depends_on_the_measure():
    assert Difference("loss", 2, 1, -1, (-1.5, -0.5), more_is_better=False).verdict == "better"
    assert Difference("accuracy", 2, 1, -1, (-1.5, -0.5)).verdict == "worse"
