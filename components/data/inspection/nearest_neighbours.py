"""Near copies of images, and labels that their neighbours doubt; exact searches of bounded cost, in numpy."""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

SIDE = 32
"""Larger images are compared at this size."""
DIRECTIONS = 24
MOST_PAIRS = 1_500_000_000
"""Pairs of images that are looked at; beyond that, a sample of the test images stands for all."""
MOST_NOISE_PAIRS = 400_000_000
BLOCK = 256
FLAT = 2.0
"""Grey levels: images whose pixels deviate less hold noise alone, and are compared for equality only."""
OTHER_LIGHT = 40.0
"""Grey levels between the means of two images, in any channel, that make them different ones."""
VOTES = 3
DOUBT = 0.75
"""The neighbour of another class is so much nearer (squared distance) than that of the own class."""
FEWEST_OF_CLASS = 5
FEWEST_CONFIRMED = 30
CONFIRMED_PER_DOUBT = 2
"""Where neighbours confirm fewer labels than that as clearly as they doubt others, they know nothing of labels: what
tells the classes apart may be the colour, or a place in the image, and not what is compared."""


def describe(images_NCHW: np.ndarray) -> np.ndarray:
    """Grey, at most 32 by 32, without mean and contrast: vectors (N, D) of length 1, or 0 where an image is flat."""
    grey = images_NCHW[:, 0].astype(np.float32) if images_NCHW.shape[1] == 1 else images_NCHW.mean(1, np.float32)
    for axis, size in ((1, grey.shape[1]), (2, grey.shape[2])):
        if size > SIDE:
            grey = np.moveaxis(np.moveaxis(grey, axis, 2) @ _areas(size).T, 2, axis)
    flat = np.ascontiguousarray(grey).reshape(len(grey), -1)
    flat -= flat.mean(1, keepdims=True)
    lengths = np.sqrt(np.einsum("ij,ij->i", flat, flat))[:, None]
    flat *= np.where(lengths < FLAT * flat.shape[1] ** 0.5, 0, 1 / np.maximum(lengths, 1e-6))
    return flat


def _areas(size: int) -> np.ndarray:
    """Weights (32, size) that give each new pixel the mean of the area that it covers."""
    edges = np.linspace(0, size, SIDE + 1)
    starts, ends = edges[:-1, None], edges[1:, None]
    pixels = np.arange(size)
    covered = np.clip(np.minimum(ends, pixels + 1) - np.maximum(starts, pixels), 0, 1)
    return (covered / covered.sum(1, keepdims=True)).astype(np.float32)


@dataclass(frozen=True, eq=False)
class Projection:
    """Directions in which descriptions differ most, and what is left beside them.

    The product of two projected vectors is at least that of the vectors themselves (Cauchy and Schwarz), so a search
    by it misses nothing.
    """

    directions: np.ndarray

    @classmethod
    def of(cls, described: np.ndarray) -> "Projection":
        """Find the directions by a sample of descriptions: nearly the principal ones, by iteration from random ones.

        All eigenvectors would take far longer, and any directions will do: these only make the search quick.
        """
        width = described.shape[1]
        found = np.random.RandomState(0).standard_normal((width, min(DIRECTIONS, width))).astype(np.float32)
        with threadpool_limits(1, "blas"):
            spread = described.T @ described
            for _ in range(4):
                found, _ = np.linalg.qr(spread @ found)
        return cls(np.ascontiguousarray(found))

    def __call__(self, described: np.ndarray) -> np.ndarray:
        projected = described @ self.directions
        lengths = np.einsum("ij,ij->i", described, described)
        rest = np.maximum(lengths - np.einsum("ij,ij->i", projected, projected), 0)
        return np.concatenate([projected, np.sqrt(rest)[:, None]], 1)


def project(images_NCHW: np.ndarray, projection: Projection) -> np.ndarray:
    """Describe and project all images, some at a time."""
    return np.concatenate(
        _on_all_cores(lambda start: projection(describe(images_NCHW[start : start + BLOCK])), len(images_NCHW))
    )


Compare = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""The likeness (1 at most) of queries and references, by their numbers."""


def near_copies(queries: np.ndarray, references: np.ndarray, compare: Compare) -> dict[int, tuple[int, float]]:
    """Find which queries have a near copy among the references.

    How near that must be depends on how alike the data is: a twelfth of the usual distance to the nearest one, for
    digits of few pixels are alike without being copies.

    Args:
        queries: projected; so are the references.

    Returns:
        For each such query the reference that is most like it, and the likeness.
    """
    likeness = 1 - _limit(queries, references, compare)

    def search(start: int) -> dict[int, tuple[int, float]]:
        best: dict[int, tuple[int, float]] = {}
        block = queries[start : start + BLOCK]
        for first in range(0, len(references), 4096):
            products = block @ references[first : first + 4096].T
            places = np.flatnonzero(products > likeness)
            for at in range(0, len(places), 4096):
                rows, columns = np.divmod(places[at : at + 4096], products.shape[1])
                found = compare(start + rows, first + columns)
                for one in np.flatnonzero(found > likeness).tolist():
                    query, value = start + int(rows[one]), float(found[one])
                    if value > best.get(query, (0, 0.0))[1]:
                        best[query] = first + int(columns[one]), value
        return best

    return {query: found for best in _on_all_cores(search, len(queries)) for query, found in best.items()}


def _on_all_cores(search: Callable[[int], Any], queries: int) -> list[Any]:
    """Do blocks of queries side by side, each on one core.

    On a machine that has other things to do, threads within a product of matrices wait for each other: up to ten times
    slower than none.
    """
    with threadpool_limits(1, "blas"), ThreadPoolExecutor(os.cpu_count()) as pool:
        return list(pool.map(search, range(0, queries, BLOCK)))


def _limit(queries: np.ndarray, references: np.ndarray, compare: Compare) -> float:
    chosen = np.linspace(0, len(queries) - 1, min(BLOCK, len(queries))).astype(int)
    with threadpool_limits(1, "blas"):
        nearest = (queries[chosen] @ references.T).argmax(1)
    usual = 1 - float(np.median(compare(chosen, nearest)))
    return min(max(usual / 12, 0.002), 0.03)


def compare_images(queries: np.ndarray, references: np.ndarray) -> Compare:
    """Compare images (NCHW) pixel by pixel; those of another light or colour are not alike at all."""

    def compare(one: np.ndarray, other: np.ndarray) -> np.ndarray:
        first, at_first = np.unique(one, return_inverse=True)
        second, at_second = np.unique(other, return_inverse=True)
        left, right = queries[first], references[second]
        likeness = np.einsum("ij,ij->i", describe(left)[at_first], describe(right)[at_second])
        light = np.abs(left.mean((2, 3))[at_first] - right.mean((2, 3))[at_second]).max(1)
        return np.where(light > OTHER_LIGHT, 0, likeness)

    return compare


def doubted(points: np.ndarray, labels: np.ndarray, seed: int = 0) -> list[tuple[int, int, float]]:
    """Find samples that have nearer neighbours in one other class than in their own, in each of three samples.

    Args:
        points: (N, D).

    Returns:
        Number, the class that its neighbours have, and how much nearer they are (0 to 0.75; the less, the more
        doubtful); the most doubtful first. Nothing where neighbours don't know enough labels to be believed.
    """
    classes, counts = np.unique(labels, return_counts=True)
    classes = classes[counts >= FEWEST_OF_CLASS]
    if len(classes) < 2:
        return []
    rng = np.random.RandomState(seed)
    each = max(5, min(int(counts.max()), 6000 // (VOTES * len(classes))))
    members = [np.flatnonzero(labels == label) for label in classes]
    drawn = [rng.choice(which, each, replace=len(which) < each) for _ in range(VOTES) for which in members]
    rows = np.concatenate(drawn)
    references = points[rows]
    halves = np.einsum("ij,ij->i", references, references) / 2
    queries = np.flatnonzero(np.isin(labels, classes))
    if len(queries) * len(rows) > MOST_NOISE_PAIRS:
        queries = np.sort(rng.choice(queries, MOST_NOISE_PAIRS // len(rows), replace=False))

    def search(start: int) -> tuple[list[tuple[int, int, float]], int]:
        chosen = queries[start : start + BLOCK]
        near = points[chosen] @ references.T
        near -= halves
        at = np.minimum(np.searchsorted(chosen, rows), len(chosen) - 1)
        itself = np.flatnonzero(chosen[at] == rows)
        near[at[itself], itself] = -np.inf
        best = near.reshape(len(chosen), VOTES, len(classes), each).max(3)
        own_length = np.einsum("ij,ij->i", points[chosen], points[chosen])[:, None, None]
        distances = np.maximum(own_length - 2 * best, 0)  # squared
        return _doubts(distances, np.searchsorted(classes, labels[chosen]), chosen, classes)

    parts = _on_all_cores(search, len(queries))
    found = [doubt for doubts, _ in parts for doubt in doubts]
    confirmed = sum(count for _, count in parts)
    if confirmed < max(FEWEST_CONFIRMED, CONFIRMED_PER_DOUBT * len(found)):
        return []
    return sorted(found, key=lambda doubt: (doubt[2], doubt[0]))


def _doubts(
    distances: np.ndarray, own: np.ndarray, chosen: np.ndarray, classes: np.ndarray
) -> tuple[list[tuple[int, int, float]], int]:
    """Give what is doubted, and how many are confirmed as clearly."""
    rows = np.arange(len(chosen))
    mine = distances[rows, :, own]
    others = distances.copy()
    others[rows, :, own] = np.inf
    nearest = others.argmin(2)
    agreed = (nearest == nearest[:, :1]).all(1)
    share = others.min(2).max(1) / np.maximum(mine.min(1), 1e-9)
    confirmed = mine.max(1) < DOUBT * others.min((1, 2))
    doubted = [
        (int(chosen[row]), int(classes[nearest[row, 0]]), float(share[row]))
        for row in np.flatnonzero(agreed & (share < DOUBT))
    ]
    return doubted, int(confirmed.sum())
