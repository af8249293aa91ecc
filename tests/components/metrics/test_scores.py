import numpy as np
import pytest
from sklearn.metrics import confusion_matrix as sklearn_confusion
from sklearn.metrics import precision_recall_fscore_support

from torchmill.components.metrics.intervals import wilson_interval
from torchmill.components.metrics.scores import class_scores, confusion_matrix


@pytest.mark.parametrize(
    ("right", "samples", "low", "high"),
    [
        # Newcombe 1998, Statistics in Medicine 17, table I, method 3.
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0000, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_the_interval_is_the_published_one(right, samples, low, high):
    assert wilson_interval(right, samples) == pytest.approx((low, high), abs=5e-5)


def test_the_interval_holds_what_it_promises():
    rng = np.random.default_rng(0)
    coverages = []
    for truth in (0.5, 0.9, 0.97, 0.99):
        for samples in (50, 355, 2000):
            intervals = [wilson_interval(int(right), samples) for right in rng.binomial(samples, truth, 2000)]
            coverages.append(np.mean([low <= truth <= high for low, high in intervals]))
    # Wilson's coverage swings about 95 % (Brown, Cai & DasGupta 2001); that of ±1.96 standard errors is far
    # below it here: 39 % for 0.99 of 50.
    assert min(coverages) > 0.90 and abs(np.mean(coverages) - 0.95) < 0.01


@pytest.mark.parametrize("samples", [1, 10, 355, 10_000])
def test_nothing_and_everything_right_keep_their_end_and_are_mirror_images(samples):
    low, high = wilson_interval(0, samples)
    assert low == 0 and 0 < high < 1
    assert wilson_interval(samples, samples) == pytest.approx((1 - high, 1))
    assert wilson_interval(samples, samples)[1] == 1


def test_the_interval_holds_the_share_and_narrows_with_samples():
    widths = []
    for samples in (10, 100, 1000):
        low, high = wilson_interval(9 * samples // 10, samples)
        assert 0 <= low < 0.9 < high <= 1
        widths.append(high - low)
    assert widths == sorted(widths, reverse=True)


@pytest.mark.parametrize(("right", "samples"), [(0, 0), (-1, 5), (6, 5)])
def test_what_is_no_proportion_is_refused(right, samples):
    with pytest.raises(ValueError, match="not a proportion"):
        wilson_interval(right, samples)


def cases():
    rng = np.random.default_rng(1)
    truth = rng.integers(0, 5, 300)
    noisy = np.where(rng.random(300) < 0.7, truth, rng.integers(0, 5, 300))
    yield "noisy", truth, noisy
    yield "perfect", truth, truth
    yield "always one answer", truth, np.full(300, 2)
    yield "a class without samples", np.where(truth == 3, 0, truth), noisy
    yield "a class without answers", truth, np.where(noisy == 4, 0, noisy)
    yield "a class without either", np.minimum(truth, 3), np.minimum(noisy, 3)
    yield "one sample", np.array([1]), np.array([3])


@pytest.mark.parametrize(("truth", "answers"), [case[1:] for case in cases()], ids=[case[0] for case in cases()])
def test_scores_are_those_of_scikit_learn(truth, answers):
    confusion = confusion_matrix(truth, answers, 5)
    assert confusion.dtype == np.int64
    assert np.array_equal(confusion, sklearn_confusion(truth, answers, labels=range(5)))
    expected = precision_recall_fscore_support(truth, answers, labels=range(5), zero_division=0)
    scores = class_scores(confusion)
    got = np.array([[score.precision, score.recall, score.f1, score.support] for score in scores]).T
    np.testing.assert_allclose(got, np.array(expected, dtype=float), rtol=1e-12)
