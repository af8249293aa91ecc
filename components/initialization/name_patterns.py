"""Names of layers and parameters by pattern."""

import fnmatch
import re
from collections.abc import Iterable


def matching(pattern: str, names: Iterable[str]) -> list[str]:
    """Give the names that a pattern means, in their order.

    A shell pattern, in which ``*`` stands for anything: ``layer1.*`` is all within layer1, and so is plain ``layer1``.
    Where that fits nothing, a regular expression: ``fc.*`` is fc1 and fc2.
    """
    known = list(names)
    found = [name for name in known if fnmatch.fnmatchcase(name, pattern) or name.startswith(f"{pattern}.")]
    inner = pattern.removesuffix(".*")
    found += [name for name in known if name == inner and name not in found]
    if found:
        return [name for name in known if name in set(found)]
    try:
        expression = re.compile(pattern)
    except re.error:
        return []
    return [name for name in known if expression.fullmatch(name)]
