"""Errors that a user can act on, and the nearest known name for an unknown one."""

import difflib
from collections.abc import Iterable, Sequence

from torchmill.components.wording import printable, without_passwords


class UserError(Exception):
    """A mistake or a circumstance that the user can mend. It is shown in words, never as a traceback.

    ``message`` names the fault and its place; ``remedy`` says how to mend it. Neither shows a password in an
    address, or characters that steer a terminal.

    Example:
        >>> raise UserError("The disk of mlruns is full.", "Free some space.")
    """

    exit_code = 1

    def __init__(self, message: str, remedy: str = ""):
        self.message, self.remedy = (without_passwords(printable(text)) for text in (message, remedy))
        super().__init__(self.message, self.remedy)

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


SYNONYMS = ({"label", "target", "y"}, {"image_size", "size", "resolution"}, {"num_classes", "n_classes", "classes"})
"""Names that others use for the same thing."""


def unknown_argument(owner: str, name: str, accepted: Iterable[str]) -> tuple[str, str]:
    """Return the message and the remedy for an argument that ``owner`` doesn't take.

    Example:
        >>> unknown_argument("csv", "target", ["label", "text"])
        ("csv takes no argument 'target'.", 'Did you mean label?')
    """
    return f"{owner} takes no argument '{name}'.", nearest(name, accepted) or "It takes none."


def nearest(word: str, names: Iterable[str]) -> str:
    """Return a hint: the names that are near a word, or all of them if none is near.

    Example:
        >>> nearest("simplecn", ["simple_cnn", "resnet18"])
        'Did you mean simple_cnn?'
    """
    names = sorted(names)
    if synonyms := [name for group in SYNONYMS if word.lower() in group for name in names if name in group]:
        return f"Did you mean {' or '.join(synonyms)}?"
    by_lower_case = {name.lower(): name for name in names}
    near = difflib.get_close_matches(word.lower(), by_lower_case, n=3, cutoff=0.5)
    section, dot, last = word.lower().rpartition(".")
    short = section + dot + "".join(part[:1] for part in last.split("_"))  # "learning_rate" means lr
    if "_" in last and short in by_lower_case:
        near = [short, *(name for name in near if name != short)][:3]
    if near:
        return "Did you mean " + " or ".join(by_lower_case[name] for name in near) + "?"
    return "Known: " + ", ".join(names) + "." if names else ""
