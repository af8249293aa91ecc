"""Numbers in words, and names that show themselves and do nothing else."""

import re

import pytest
from markdown_it import MarkdownIt

from torchmill.components.wording import as_markdown, count, markdown_table, percent, points, printable

HOSTILE = [
    *("a|b", "<img src=x onerror=alert(1)>", "![x](http://example.org)", "[a](javascript:alert(1))", "**bold**"),
    *("__init__", "_x_", "# heading", "- item", "`code`", "&lt;", "~~gone~~", "a\\|b", "```", "1. one", "> quote"),
]


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


@pytest.mark.parametrize("name", [*HOSTILE, "my_net", "net.py:Net", "C#", "naïve", "日本", "a b"])
def test_markdown_shows_a_name_as_it_is(name: str):
    (table,) = re.findall(r"<td>(.*?)</td>", _rendered("\n".join(markdown_table(["name"], "l", [[name]]))), re.DOTALL)
    (line,) = re.findall(r"<p>x (.*?)</p>", _rendered(f"x {as_markdown(name)}"), re.DOTALL)
    for shown in (table, line):
        assert "<" not in shown
        text = shown.replace("&lt;", "<").replace("&gt;", ">").replace("&quot;", '"').replace("&amp;", "&")
        assert text.strip() == name.strip()


def _rendered(text: str) -> str:
    return MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"]).render(text)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("cat\x1b[2J", "cat\\x1b[2J"),
        ("a\rb\x00\x7f\x9b", "a\\rb\\x00\\x7f\\x9b"),
        ("gpj.\u202egnp", "gpj.\\u202egnp"),
        ("one\u2028two", "one\\u2028two"),
        ("\udcff.png", "\\udcff.png"),
        ("two\nlines\tand a tab", "two\nlines\tand a tab"),
        ("naïve 日本 👩\u200d🔬 a\u00a0b", "naïve 日本 👩\u200d🔬 a\u00a0b"),
    ],
)
def test_no_character_steers_a_terminal(text: str, shown: str):
    assert printable(text) == shown
    shown.encode()


def test_markdown_has_a_name_in_one_line():
    assert as_markdown("a\nb") == "a\\\\nb"
