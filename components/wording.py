"""Words for numbers, and names that may be shown anywhere: in a terminal, a log, a page of Markdown, a table."""

import re
import unicodedata
from collections.abc import Iterable, Sequence

INVISIBLE = ("Cc", "Cs", "Zl", "Zp")
"""Unicode's categories of control characters, halves of pairs and separators of lines."""
REORDERING = "\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"
"""Characters that change the order of those around them (https://www.unicode.org/reports/tr9)."""
MARKUP = re.compile(r"[\\`*\[\]<>|&~]|(?<![^\W_])_|_(?![^\W_])|(?<!\w)[#]")


def printable(text: str, keep: str = "\n\t") -> str:
    """Return a text in which no character can steer a terminal or hide: such ones are escaped.

    Args:
        keep: control characters that stay.

    Example:
        >>> printable("cat\\x1b[2J")
        'cat\\\\x1b[2J'
    """
    if text.isprintable():
        return text
    return "".join(
        repr(character)[1:-1]
        if character not in keep and (unicodedata.category(character) in INVISIBLE or character in REORDERING)
        else character
        for character in text
    )


def as_markdown(text: object) -> str:
    """Return a text that Markdown shows as it is, in one line.

    Example:
        >>> as_markdown("a|b <script>"), as_markdown("my_net")
        ('a\\\\|b \\\\<script\\\\>', 'my_net')
    """
    return MARKUP.sub(r"\\\g<0>", printable(str(text), keep=""))


def markdown_table(header: Sequence[str], alignment: str, rows: Iterable[Sequence[object]]) -> list[str]:
    """Return the lines of a table in Markdown, whatever its cells hold.

    Args:
        alignment: a letter per column: ``l`` for left, ``r`` for right.

    Example:
        >>> markdown_table(["class", "samples"], "lr", [["a|b", 3]])
        ['| class | samples |', '|---|---:|', '| a\\\\|b | 3 |']
    """
    rule = "|".join("---:" if letter == "r" else "---" for letter in alignment)
    cells = [[as_markdown(cell) for cell in row] for row in rows]
    return [f"| {' | '.join(header)} |", f"|{rule}|", *(f"| {' | '.join(row)} |" for row in cells)]


def without_passwords(text: str) -> str:
    """Return a text whose addresses name no user and no password: it may be shown and kept.

    Example:
        >>> without_passwords("MLflow at https://me:secret@example.org/mlflow: refused")
        'MLflow at https://example.org/mlflow: refused'
    """
    return re.sub(r"(?<=://)[^/\s?#'\"]*@", "", text)


def count(number: int, noun: str, plural: str = "") -> str:
    """Return a number with its noun in the singular or the plural.

    Example:
        >>> count(1, "warning"), count(2, "warning"), count(1300, "class", "classes")
        ('1 warning', '2 warnings', '1,300 classes')
    """
    return f"{number:,} {noun if number == 1 else plural or noun + 's'}"


def percent(share: float, digits: int = 2) -> str:
    """Return a share in per cent.

    Example:
        >>> percent(0.9746)
        '97.46 %'
    """
    return f"{100 * share:.{digits}f} %"


def points(difference: float, sign: bool = False) -> str:
    """Return the difference of two shares in percentage points.

    Example:
        >>> points(0.005), points(0.005, sign=True)
        ('0.50 points', '+0.50 points')
    """
    return f"{100 * difference:{'+' if sign else ''}.2f} points"
