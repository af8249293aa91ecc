"""Instances of a parametrized test that run each day; the others are slow."""

from collections.abc import Iterable
from typing import Any, TypeVar

import pytest

Value = TypeVar("Value")


def slow_but(quick: Iterable[Value], every: Iterable[Value]) -> list[Any]:
    """Return values for ``parametrize``: those that ``quick`` lacks are marked slow.

    Example:
        @pytest.mark.parametrize("opset", slow_but((17, 22), range(17, 23)))
    """
    named, values = list(quick), list(every)
    assert all(value in values for value in named), f"not among the instances: {[v for v in named if v not in values]}"
    return [value if value in named else pytest.param(value, marks=pytest.mark.slow) for value in values]
