"""Patterns of layer and parameter names."""

import fnmatch
import re
from collections.abc import Iterable


def matching(pattern: str, names: Iterable[str]) -> list[str]:
    """Return the names that match a pattern, in their order.

    The pattern is a shell pattern, in which ``*`` matches anything. If it matches nothing, it is a regular expression.

    Example:
        >>> matching("layer1", ["layer1.conv", "layer1.norm", "layer10.conv"])
        ['layer1.conv', 'layer1.norm']
        >>> matching("fc.*", ["fc1", "fc2"])  # no layer is called fc
        ['fc1', 'fc2']
    """
    names = list(names)
    layer = pattern.removesuffix(".*")
    matches = [
        name for name in names if name == layer or fnmatch.fnmatchcase(name, pattern) or name.startswith(f"{pattern}.")
    ]
    if matches:
        return matches
    try:
        expression = re.compile(pattern)
    except re.error:
        return []
    return [name for name in names if expression.fullmatch(name)]
