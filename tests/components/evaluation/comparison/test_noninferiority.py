"""A challenger that is truly worse is promoted no more often than is stated; equal and better ones mostly are."""

import json
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import binom

from torchmill.components.evaluation.comparison.noninferiority import (
    compare,
    confidence_of,
    confidence_words,
    judge,
    most_contests,
    note_on_contests,
    sample_scores,
    samples_needed,
    tango_upper,
)

MARGIN, CONFIDENCE = 0.01, 0.95


def answers(rng: np.random.Generator, samples: int, n10: float, n01: float) -> tuple[np.ndarray, np.ndarray]:
    """Right and wrong answers of a champion and a challenger: shares that one alone gets right, the rest alike."""
    drawn = rng.random(samples)
    champion = (drawn < n10) | (drawn > 0.2)
    challenger = ((drawn >= n10) & (drawn < n10 + n01)) | (drawn > 0.2)
    return champion, challenger


def promoted(seed: int, runs: int, samples: int, n10: float, n01: float) -> tuple[int, int]:
    """How many challengers are promoted, and how many are found not inferior, whatever their score."""
    rng = np.random.default_rng(seed)
    count = sure = 0
    for _ in range(runs):
        comparison = compare(*answers(rng, samples, n10, n01), CONFIDENCE)
        sure += comparison.advantage_high < MARGIN
        count += judge(comparison, {"parity": True}, MARGIN, "accuracy").outcome == "promoted"
    return count, sure


def most(runs: int) -> int:
    """So many errors are not exceeded, but in one of a thousand series, if their rate is the stated one."""
    return int(binom.ppf(0.999, runs, 1 - CONFIDENCE))


def test_a_hundred_challengers_that_are_worse_by_twice_the_margin_are_nearly_all_refused():
    count, sure = promoted(seed=0, runs=100, samples=2000, n10=0.04, n01=0.02)
    assert count <= sure <= most(100) == 13


@pytest.mark.parametrize(
    ("samples", "n10", "n01", "runs"),
    [
        (2000, 0.02, 0.01, 300),
        pytest.param(2000, 0.02, 0.01, 1000, marks=pytest.mark.slow),
        pytest.param(2000, 0.055, 0.045, 1000, marks=pytest.mark.slow),
        pytest.param(500, 0.03, 0.02, 1000, marks=pytest.mark.slow),
    ],
)
def test_worse_by_just_the_margin_is_found_not_inferior_at_most_at_the_stated_rate(samples, n10, n01, runs):
    """Where the rate is the highest; the rule that the score must not be lower only lowers it further."""
    count, sure = promoted(seed=1, runs=runs, samples=samples, n10=n10, n01=n01)
    assert sure <= most(runs) and most(1000) == 73
    assert count <= sure


def test_the_bound_would_be_broken_by_a_rule_that_looks_at_the_point_alone():
    rng = np.random.default_rng(1)
    compared = [compare(*answers(rng, 2000, 0.02, 0.01), CONFIDENCE) for _ in range(300)]
    assert sum(one.advantage < MARGIN for one in compared) > most(300)


def test_equal_challengers_are_promoted_in_half_of_the_cases_and_better_ones_nearly_always():
    equal, sure = promoted(seed=2, runs=300, samples=4000, n10=0.01, n01=0.01)
    assert equal > 150 and sure > 280  # half of them have the lower score by chance
    assert promoted(seed=3, runs=100, samples=2000, n10=0.01, n01=0.02)[0] > 95


def test_few_samples_prove_nothing_even_where_all_answers_agree():
    right = np.ones(100, bool)
    few = judge(compare(right, right, CONFIDENCE), {}, 0.005, "accuracy")
    assert few.outcome == "kept" and "at 95 % confidence" in few.reason and "100 samples" in few.reason
    many = np.ones(1000, bool)
    assert judge(compare(many, many, CONFIDENCE), {}, 0.005, "accuracy").outcome == "promoted"


@pytest.mark.parametrize("alike", [355, 355 - 14])
def test_how_many_samples_would_do_is_told(alike: int):
    champion = np.ones(355, bool)
    challenger = champion.copy()
    # Each of the two is right seven times where the other is not.
    champion[alike : alike + 7], challenger[alike + 7 :] = False, False
    comparison = compare(champion, challenger, CONFIDENCE)
    needed = samples_needed(comparison, 0.005)
    assert needed and 355 < needed < 100_000
    shares = (355 - alike) / 2 / 355
    upper = [tango_upper(shares * n, shares * n, n, CONFIDENCE) for n in (needed - 1, needed)]
    assert upper[1] < 0.005 <= upper[0]
    assert f"about {needed:,} like these would be enough" in judge(comparison, {}, 0.005, "accuracy").reason


def test_no_number_of_samples_turns_a_lower_score_around():
    champion, challenger = np.ones(400, bool), np.ones(400, bool)
    challenger[:2] = False
    comparison = compare(champion, challenger, CONFIDENCE)
    assert samples_needed(comparison, 0.005) is None
    assert "would be enough" not in judge(comparison, {}, 0.01, "accuracy").reason


def test_the_bootstraps_number_is_of_the_right_size():
    rng = np.random.default_rng(0)
    first, second = rng.normal(0, 1, 400), rng.normal(0, 1, 400)
    second += (first - second).mean()  # equally good
    needed = samples_needed(compare(first, second, CONFIDENCE), 0.05)
    assert needed == pytest.approx((1.645 * np.sqrt(2) / 0.05) ** 2, rel=0.25)


def test_a_gate_that_was_not_passed_keeps_the_best_one_back():
    right, wrong = np.ones(1000, bool), np.zeros(1000, bool)
    comparison = compare(wrong, right, CONFIDENCE)
    assert judge(comparison, {"parity": True}, MARGIN, "accuracy").outcome == "promoted"
    refused = judge(comparison, {"parity": False}, MARGIN, "accuracy")
    assert refused.outcome == "kept" and "it failed: parity" in refused.reason


def test_the_interval_is_the_one_that_tango_gives():
    # No discordant pair: the score interval ends at z²/(n + z²), in closed form.
    z2 = 1.6448536269514722**2
    assert tango_upper(0, 0, 355, 0.95) == pytest.approx(z2 / (355 + z2), rel=1e-9)
    # Otherwise it is where the score test rejects: symmetric, wider for more confidence, above the point.
    assert tango_upper(3, 12, 1000, 0.95) > -0.009
    assert tango_upper(12, 3, 1000, 0.99) > tango_upper(12, 3, 1000, 0.95) > 0.009
    assert tango_upper(50, 0, 50, 0.95) == pytest.approx(1)
    with pytest.raises(ValueError, match="no discordant pairs"):
        tango_upper(3, 3, 5, 0.95)


def test_numbers_are_compared_by_a_bootstrap_that_is_always_the_same():
    rng = np.random.default_rng(0)
    truth = rng.normal(size=(2000, 1))
    good, worse = truth + 0.1 * rng.normal(size=truth.shape), truth + 0.3 * rng.normal(size=truth.shape)
    scores = [sample_scores("regression", outputs, truth) for outputs in (good, worse)]
    first, again = (compare(*scores, CONFIDENCE) for _ in range(2))
    assert first == again and first.n01 is None and first.p_value < 0.01
    assert judge(first, {}, MARGIN, "r2").outcome == "kept"
    assert judge(compare(*reversed(scores), CONFIDENCE), {}, MARGIN, "r2").outcome == "promoted"


@pytest.mark.parametrize("runs", [pytest.param(100, marks=pytest.mark.slow), 25])
def test_worse_numbers_are_promoted_at_most_at_the_stated_rate(runs: int):
    """Of the bootstrap, over challengers that are worse by just the margin."""
    rng, sure = np.random.default_rng(4), 0
    for _ in range(runs):
        champion = rng.normal(0.9, 0.1, 300)
        challenger = champion - rng.normal(MARGIN, 0.05, 300)
        sure += compare(champion, challenger, CONFIDENCE).advantage_high < MARGIN
    assert sure <= most(runs)


def test_scores_have_the_measure_as_their_mean():
    logits = np.array([[2.0, 1], [0, 1], [3, 1]])
    assert sample_scores("classification", logits, np.array([0, 0, 0])).tolist() == [True, False, True]
    labels = np.array([[1, 0], [0, 1], [0, 0]])
    assert sample_scores("multilabel", logits - 0.5, labels).tolist() == [0.5, 1, 0]
    targets = np.array([[1.0], [2], [3]])
    assert sample_scores("regression", targets, targets).mean() == 1
    assert sample_scores("regression", np.full((3, 1), 2.0), targets).mean() == pytest.approx(0)
    assert sample_scores("regression", targets, np.ones((3, 1))).tolist() == [0, 0, 0]  # nothing to explain


def test_all_numbers_are_in_the_tags_and_in_the_json():
    rng = np.random.default_rng(0)
    verdict = judge(compare(*answers(rng, 2000, 0.01, 0.03), CONFIDENCE), {}, MARGIN, "accuracy")
    tags = verdict.tags()
    numbers = ("n01", "n10", "p_value", "advantage", "advantage_high", "margin", "confidence", "samples")
    assert {f"promotion.{name}" for name in numbers} <= set(tags)
    assert tags["promotion.outcome"] == "promoted" and float(tags["promotion.advantage"]) < 0
    assert json.loads(verdict.as_json(model="m"))["comparison"]["n01"] == int(tags["promotion.n01"])


def search(rng: np.random.Generator, challengers: int, level: Callable[[int], float]) -> bool:
    """Return whether one of several challengers, all worse by just the margin, is found not inferior."""
    samples = 2000
    champion = rng.random(samples) > 0.2
    for number in range(1, challengers + 1):
        drawn = rng.random(samples)
        challenger = np.where(champion, drawn > 0.025, drawn < 0.05)  # worse by a point, on average
        if compare(champion, challenger, level(number)).advantage_high < MARGIN:
            return True
    return False


@pytest.mark.parametrize("runs", [pytest.param(400, marks=pytest.mark.slow), 120])
def test_a_search_by_the_test_split_errs_no_more_often_than_a_single_contest(runs: int):
    rng = np.random.default_rng(7)
    plain = sum(search(rng, 5, lambda _: CONFIDENCE) for _ in range(runs))
    assert plain > 2 * (1 - CONFIDENCE) * runs  # five chances of 5 % each
    rng = np.random.default_rng(7)
    spent = sum(search(rng, 5, lambda number: confidence_of(CONFIDENCE, number)) for _ in range(runs))
    assert spent <= most(runs) and spent < plain / 2


def test_the_rates_of_all_contests_sum_to_that_of_one():
    rates = [1 - confidence_of(0.95, number) for number in range(1, 10_000)]
    assert 0.0499 < sum(rates) < 0.05 and rates == sorted(rates, reverse=True)


def test_a_test_split_that_has_decided_before_is_told():
    right = np.ones(4000, bool)

    def note(contest: int, samples: int = 4000) -> str:
        comparison = compare(right[:samples], right[:samples], confidence_of(CONFIDENCE, contest))
        return note_on_contests(replace(comparison, contest=contest), CONFIDENCE, 0.005)

    assert note(1) == ""
    assert note(5) == ("this test split has decided 4 contests before: judged at 99.8 % confidence rather than 95 %")
    possible = most_contests(2000, CONFIDENCE, 0.005)
    upper = [tango_upper(0, 0, 2000, confidence_of(CONFIDENCE, number)) for number in (possible, possible + 1)]
    assert upper[0] < 0.005 <= upper[1] and possible == 6
    assert "fresh" not in note(possible, 2000) and "get fresh test samples" in note(possible + 1, 2000)
    assert most_contests(100, CONFIDENCE, 0.005) == 0  # which the message on the number of samples says


def test_levels_are_told_from_certainty():
    assert [confidence_words(level) for level in (0.95, 0.9, 0.9696, 0.99878, 0.99999)] == [
        *("95 %", "90 %", "96.9 %", "99.8 %", "99.999 %")
    ]


def test_the_end_of_a_bootstraps_interval_goes_on_beyond_its_resamples():
    rng = np.random.default_rng(0)
    first, second = rng.normal(0.9, 0.1, 300), rng.normal(0.9, 0.1, 300)
    ends = [compare(first, second, confidence_of(CONFIDENCE, number)).advantage_high for number in (1, 5, 50, 500)]
    assert ends == sorted(set(ends))
