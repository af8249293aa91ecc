"""Text files are read line by line as they were written."""

import pytest

from torchmill.components.errors import UserError
from torchmill.components.reading.texts import decoded, lines


def test_the_error_names_the_place_of_a_wrong_byte():
    assert decoded(b"\xef\xbb\xbfa", "file") == "a"
    with pytest.raises(UserError, match="file line 3 is not UTF-8: byte 4 of the file is 0xff"):
        decoded(b"a\nb\n\xff", "file")


def test_a_line_ends_at_a_line_feed_alone():
    signs = "\u2028\u2029\x0b\x0c\x1c\x1d\x1e\x85\r"
    text = "".join(f"first{sign}second\n" for sign in signs)
    assert lines(text) == [f"first{sign}second" for sign in signs]
    assert lines("one\r\ntwo\n\nthree") == ["one", "two", "", "three"]
    assert lines("") == [] and lines("\n") == [""]
