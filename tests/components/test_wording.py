"""Numbers in words: singular and plural, shares and their differences."""

import pytest

from torchmill.components.wording import count, percent, points


@pytest.mark.parametrize(
    ("number", "words"), [(0, "0 warnings"), (1, "1 warning"), (2, "2 warnings"), (1234, "1,234 warnings")]
)
def test_a_count_has_its_noun_in_the_right_number(number, words):
    assert count(number, "warning") == words


def test_an_irregular_plural():
    assert (count(1, "class", "classes"), count(3, "class", "classes")) == ("1 class", "3 classes")


def test_shares_are_in_per_cent_and_their_differences_in_points():
    assert (percent(0.97456), percent(0.05, 0)) == ("97.46 %", "5 %")
    assert (points(0.005), points(-0.0125), points(0.005, sign=True)) == ("0.50 points", "-1.25 points", "+0.50 points")
