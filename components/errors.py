"""Errors that a user can act on, and the nearest known name for an unknown one."""

import difflib
from collections.abc import Iterable, Sequence


class UserError(Exception):
    """A mistake or a circumstance that the user can mend. It is shown in words, never as a traceback.

    ``message`` names the fault and its place; ``remedy`` says how to mend it.

    Example:
        >>> raise UserError("The disk of mlruns is full.", "Free some space.")
    """

    exit_code = 1

    def __init__(self, message: str, remedy: str = ""):
        super().__init__(message, remedy)
        self.message = message
        self.remedy = remedy

    def __str__(self) -> str:
        return f"{self.message} {self.remedy}".strip()


class ConfigError(UserError):
    """An error in the command line, in a configuration file, or in a name in them."""

    exit_code = 2


class Unreachable(UserError):
    """A server that did not answer; the same command may work later."""


def shortened(names: Sequence[object], most: int = 4) -> str:
    """List the first names and count the rest.

    Example:
        >>> shortened("abcdef")
        'a, b, c, d and 2 more'
    """
    rest = len(names) - most
    return ", ".join(map(str, names[:most])) + (f" and {rest:,} more" if rest > 0 else "")


def nearest(word: str, names: Iterable[str]) -> str:
    """Return a hint: the names that are near a word, or all of them if none is near.

    Example:
        >>> nearest("simplecn", ["simple_cnn", "resnet18"])
        'Did you mean simple_cnn?'
    """
    names = sorted(names)
    by_lower_case = {name.lower(): name for name in names}
    near = difflib.get_close_matches(word.lower(), by_lower_case, n=3, cutoff=0.5)
    section, dot, last = word.lower().rpartition(".")
    short = section + dot + "".join(part[:1] for part in last.split("_"))  # "learning_rate" means lr
    if "_" in last and short in by_lower_case:
        near = [short, *(name for name in near if name != short)][:3]
    if near:
        return "Did you mean " + " or ".join(by_lower_case[name] for name in near) + "?"
    return "Known: " + ", ".join(names) + "." if names else ""
