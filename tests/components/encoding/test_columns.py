"""Rows of one table are read as another one would have been: by the names of columns and categories."""

import numpy as np
import pytest

from torchmill.components.encoding.columns import Column, Columns
from torchmill.components.errors import UserError

OURS = Columns((Column("age"), Column("color", ("blue", "red")), Column("size")))


def test_what_is_written_is_read_again():
    assert Columns.from_json(OURS.as_json()) == OURS
    assert OURS.features == ("age", "color = blue", "color = red", "size")
    assert OURS.spans == {"age": slice(0, 1), "color": slice(1, 3), "size": slice(3, 4)}


def test_cells_become_ones_and_back():
    assert OURS.columns[1].one_hot(["red", "green", "blue"]).tolist() == [[False, True], [False, False], [True, False]]
    assert OURS.cells(np.array([3, 0, 1, 0.123456])) == {"age": "3", "color": "red", "size": "0.12346"}
    assert OURS.cells(np.array([3, 0, 0, 2.0]))["color"] == "?"
    assert OURS.decode(np.array([3, 0, 1, 0.5])) == "age 3, color red, size 0.5"


def test_columns_and_categories_are_found_by_name():
    theirs = Columns(
        (Column("color", ("green", "red", "white")), Column("size"), Column("more", ("yes",)), Column("age"))
    )
    rows = np.array([[0, 1, 0, 5, 9, 40], [1, 0, 0, 6, 9, 50]], np.float32)
    translated = OURS.translation(theirs)(rows)
    assert translated.dtype == np.float32
    assert translated.tolist() == [[40, 0, 1, 5], [50, 0, 0, 6]]
    assert OURS.unknown(theirs) == {"color": ["green", "white"]}
    assert OURS.unknown(OURS) == {}


@pytest.mark.parametrize(
    ("theirs", "words"),
    [
        (("agge", "color", "size"), r"There is no column 'age'\. Did you mean agge"),
        (("age", "color", "size"), "The column 'color' holds names here, and numbers there"),
    ],
)
def test_columns_that_do_not_fit_are_told(theirs, words):
    with pytest.raises(UserError, match=words):
        OURS.translation(Columns.called(theirs))
