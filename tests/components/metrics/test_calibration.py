import numpy as np
import pytest
from scipy.special import softmax

from torchmill.components.metrics.calibration import (
    BINS,
    confidences,
    expected_calibration_error,
    fit_temperature,
    loss_change,
    losses,
    reliability,
)


def drawn(temperature: float, samples: int = 4000) -> tuple[np.ndarray, np.ndarray]:
    """Logits that are too large by the temperature, and classes as their true probabilities would have it."""
    rng = np.random.default_rng(0)
    logits = 2 * rng.normal(size=(samples, 5))
    chances = softmax(logits, axis=1)
    labels = (rng.random(samples)[:, None] > chances.cumsum(1)).sum(1).clip(0, 4)
    return temperature * logits, labels


@pytest.mark.parametrize("temperature", [0.3, 1.0, 2.5])
def test_the_temperature_is_found_by_which_logits_are_too_large(temperature):
    logits, labels = drawn(temperature)
    found = fit_temperature(logits, labels)
    assert found == pytest.approx(temperature, rel=0.05)
    assert losses(logits, labels, found).mean() <= losses(logits, labels, 1.01 * found).mean()
    assert losses(logits, labels, found).mean() <= losses(logits, labels, 0.99 * found).mean()


def test_the_temperature_mends_the_calibration_of_other_samples():
    logits, labels = drawn(2.5)
    temperature = fit_temperature(logits[:2000], labels[:2000])
    rest, truth = logits[2000:], labels[2000:]
    right = rest.argmax(1) == truth
    before, after = (
        expected_calibration_error(reliability(confidences(rest, divided_by), right))
        for divided_by in (1.0, temperature)
    )
    assert before > 0.1 and after < 0.04
    change, (low, high) = loss_change(rest, truth, temperature)
    assert low < change < high < 0


def test_samples_without_a_mistake_say_nothing_about_the_temperature():
    assert fit_temperature(np.eye(4) * 3, np.arange(4)) == 1.0


def test_a_temperature_stays_in_its_bounds():
    logits = np.array([[4.0, 0.0]] * 10)
    assert fit_temperature(logits, np.array([0, 1] * 5)) == pytest.approx(20, rel=1e-3)


def test_the_error_is_the_mean_gap_between_confidence_and_accuracy():
    confidence = np.array([0.95, 0.95, 0.95, 0.95, 0.55, 0.55])
    right = np.array([True, True, True, False, True, False])
    bins = reliability(confidence, right)
    assert [(one.samples, one.accuracy) for one in bins] == [(2, 0.5), (4, 0.75)]
    assert expected_calibration_error(bins) == pytest.approx((2 * 0.05 + 4 * 0.2) / 6)


def test_no_sample_is_lost_at_the_ends():
    bins = reliability(np.array([0.0, 1 / BINS, 1.0]), np.array([True, True, False]))
    assert [(one.low, one.samples) for one in bins] == [(0, 1), (1 / BINS, 1), (14 / BINS, 1)]
