"""Words for numbers: counts with their noun, shares in per cent, points. Addresses without passwords."""

import re


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
