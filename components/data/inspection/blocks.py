"""Searches in blocks of queries, on all cores."""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from threadpoolctl import threadpool_limits

BLOCK = 256
"""Number of queries in a block."""


def on_all_cores(search: Callable[[int], Any], queries: int) -> list[Any]:
    """Search blocks of queries in parallel, each on one core; ``search`` gets the number of its first query.

    On a busy machine, the threads of a matrix product wait for each other, and are up to ten times slower than one.
    """
    with threadpool_limits(1, "blas"), ThreadPoolExecutor(os.cpu_count()) as pool:
        return list(pool.map(search, range(0, queries, BLOCK)))
