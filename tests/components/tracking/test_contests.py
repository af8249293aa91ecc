"""Contests on one test split are counted, whoever begins them and though the split grows."""

import numpy as np

from torchmill.components.tracking.champions import ModelVersion
from torchmill.components.tracking.contests import MAX_PAIRS, Contest, Contests

RNG = np.random.default_rng(0)
SAMPLES = [int(digest) for digest in RNG.integers(0, 2**63, 1000)]


def contest(champion: str, challenger: str, samples: list[int] = SAMPLES, data: str = "d") -> Contest:
    return Contest.of(champion, challenger, samples, data)


def test_each_contest_has_the_next_number_and_the_same_one_its_own():
    contests = Contests()
    for number in range(1, 6):
        assert contests.number(contest("a", f"b{number}")) == number
        contests = contests.with_contest(contest("a", f"b{number}"))
    for number in range(1, 6):
        assert contests.number(contest("a", f"b{number}")) == number
        assert contests.with_contest(contest("a", f"b{number}")).splits[-1].decided == 5
    assert contests.number(contest("b1", "a")) == 6
    assert Contests.from_json(contests.as_json()) == contests


def test_a_split_that_grows_goes_on_counting_and_a_fresh_one_begins_anew():
    contests, samples = Contests(), list(SAMPLES)
    for number in range(1, 40):
        assert contests.number(contest("a", "b", samples)) == number  # other samples: another contest
        contests = contests.with_contest(contest("a", "b", samples))
        samples += [int(digest) for digest in RNG.integers(0, 2**63, 10)]
    fresh = [int(digest) for digest in RNG.integers(0, 2**63, 1000)]
    assert contests.number(contest("a", "b", fresh)) == 1
    both = contests.with_contest(contest("a", "b", fresh))
    assert both.number(contest("a", "c", fresh)) == 2 and both.number(contest("a", "c", samples)) == 40


def test_the_tag_stays_short_and_keeps_its_count():
    contests = Contests()
    for split in range(8):
        samples = [digest ^ split for digest in SAMPLES] if split else SAMPLES
        samples = [int(digest) for digest in np.random.default_rng(split).integers(0, 2**63, 500)] if split else samples
        for number in range(3 * MAX_PAIRS if split == 7 else 2):
            contests = Contests.from_json(contests.with_contest(contest("a", str(number), samples)).as_json())
    assert contests.splits[-1].decided == 3 * MAX_PAIRS and len(contests.splits[-1].pairs) == MAX_PAIRS
    assert contests.number(contest("a", str(3 * MAX_PAIRS - 1), samples)) == 3 * MAX_PAIRS
    full = contests
    for split in range(4):
        samples = [int(digest) for digest in np.random.default_rng(50 + split).integers(2**62, 2**63, 500)]
        for number in range(2 * MAX_PAIRS):
            full = full.with_contest(contest("a", str(number), samples))
    assert len(full.as_json()) < 5000


def test_contests_of_an_earlier_version_count():
    tags = {"promotion.method": "exact McNemar test", "promotion.data": "d"}
    versions = [ModelVersion("m", str(number), "", tags if number in (2, 3) else {}) for number in range(1, 5)]
    same_model = ModelVersion("m", "5", "", {"promotion.reason": "same model", "promotion.data": "d"})
    contests = Contests.of_versions([*versions, same_model])
    assert contests.number(contest("a", "b")) == 3 and contests.number(contest("a", "b", data="e")) == 1
    contests = contests.with_contest(contest("a", "b"))
    assert contests.number(contest("a", "c")) == 4 and len(contests.splits) == 1


def test_a_damaged_tag_counts_as_none():
    for text in ("", "null", "[1]", '[{"test": 3}]', "\x00"):
        assert Contests.from_json(text).number(contest("a", "b")) == 1
