"""What a user is told when something is wrong with what they gave us."""

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """A mistake or a circumstance that the user can mend: shown as words, never as a traceback.

    The message says what is wrong and where; ``remedy`` says what to do about it.
    """

    exit_code = 1

    def __init__(self, message: str, remedy: str = ""):
        super().__init__(message, remedy)
        self.message = message
        self.remedy = remedy

    def __str__(self) -> str:
        return f"{self.message} {self.remedy}".strip()


class ConfigError(UserError):
    """The command line, a configuration file or a name in them is wrong."""

    exit_code = 2


class Unreachable(UserError):
    """Something outside this machine did not answer; the same may work later."""


def nearest(word: str, known: Iterable[str]) -> str:
    """Say which of the ``known`` names are meant by ``word``, or list them where none is near."""
    known = sorted(known)
    by_lower_case = {name.lower(): name for name in known}
    near = difflib.get_close_matches(word.lower(), by_lower_case, n=3, cutoff=0.5)
    section, dot, last = word.lower().rpartition(".")
    short = section + dot + "".join(part[:1] for part in last.split("_"))  # lr is the learning_rate
    if "_" in last and short in by_lower_case:
        near = [short, *(name for name in near if name != short)][:3]
    if near:
        return "Did you mean " + " or ".join(by_lower_case[name] for name in near) + "?"
    return "Known: " + ", ".join(known) + "." if known else ""
