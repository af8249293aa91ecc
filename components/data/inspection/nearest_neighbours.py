"""Near copies of images, and labels that differ from their neighbours'; exact searches of bounded cost, in numpy."""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

SIDE = 32
"""Size, in pixels, to which larger images are reduced before they are compared."""

DIRECTIONS = 24
"""Number of dimensions of a projection."""

MOST_PAIRS = 1_500_000_000
"""Largest number of image pairs to compare; beyond it, a sample of the test images stands for all."""

MOST_NOISE_PAIRS = 400_000_000
"""Largest number of pairs to compare for suspect labels; beyond it, a sample of the images stands for all."""

BLOCK = 256
"""Number of queries in a block."""

FLAT = 2.0
"""Standard deviation, in grey levels, below which an image holds noise alone and is compared for equality only."""

OTHER_LIGHT = 40.0
"""Difference of two images' means, in grey levels of any channel, above which they are different images."""

VOTES = 3
"""Number of reference samples; a label is suspect if all of them agree."""

DOUBT = 0.75
"""Largest squared distance of a suspect's neighbour, over that of the nearest sample with the same label."""

FEWEST_OF_CLASS = 5
"""Smallest class that takes part."""

FEWEST_CONFIRMED = 30
CONFIRMED_PER_DOUBT = 2
"""Labels that neighbours must confirm, in all and per suspect. With fewer, the compared features don't separate the
classes: their difference may be the colour, or a place in the image."""


def describe(images_NCHW: np.ndarray) -> np.ndarray:
    """Return grey images of at most 32 by 32, without mean and contrast: vectors (N, D) of length 1, or 0 if flat."""
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
    """Return weights (32, size) that make each new pixel the mean of the area that it covers."""
    edges = np.linspace(0, size, SIDE + 1)
    starts, ends = edges[:-1, None], edges[1:, None]
    pixels = np.arange(size)
    covered = np.clip(np.minimum(ends, pixels + 1) - np.maximum(starts, pixels), 0, 1)
    return (covered / covered.sum(1, keepdims=True)).astype(np.float32)


@dataclass(frozen=True, eq=False)
class Projection:
    """Directions in which descriptions differ most; a projection adds the length of the remainder.

    The product of two projected vectors is at least that of the vectors themselves (Cauchy and Schwarz). So a search
    by projections misses nothing.
    """

    directions: np.ndarray

    @classmethod
    def of(cls, described: np.ndarray) -> "Projection":
        """Compute the directions from a sample of descriptions, by power iteration from random ones.

        They approximate the principal directions. Exact eigenvectors take far longer and change the speed alone.
        """
        width = described.shape[1]
        directions = np.random.RandomState(0).standard_normal((width, min(DIRECTIONS, width))).astype(np.float32)
        with threadpool_limits(1, "blas"):
            spread = described.T @ described
            for _ in range(4):
                directions, _ = np.linalg.qr(spread @ directions)
        return cls(np.ascontiguousarray(directions))

    def __call__(self, described: np.ndarray) -> np.ndarray:
        projected = described @ self.directions
        lengths = np.einsum("ij,ij->i", described, described)
        rest = np.maximum(lengths - np.einsum("ij,ij->i", projected, projected), 0)
        return np.concatenate([projected, np.sqrt(rest)[:, None]], 1)


def project(images_NCHW: np.ndarray, projection: Projection) -> np.ndarray:
    """Describe and project all images, block by block."""
    return np.concatenate(
        _on_all_cores(lambda start: projection(describe(images_NCHW[start : start + BLOCK])), len(images_NCHW))
    )


Compare = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""Function that returns the likeness, at most 1, of queries and references by their numbers."""


def near_copies(queries: np.ndarray, references: np.ndarray, compare: Compare) -> dict[int, tuple[int, float]]:
    """Find the queries that have a near copy among the references.

    A near copy is nearer than a twelfth of the usual distance to the nearest reference. An absolute limit would not do:
    digits of few pixels are alike without being copies.

    Args:
        queries: projected images; so are the references.

    Returns:
        For each such query the most similar reference, and the likeness.
    """
    likeness = 1 - _limit(queries, references, compare)

    def search(start: int) -> dict[int, tuple[int, float]]:
        best: dict[int, tuple[int, float]] = {}
        block = queries[start : start + BLOCK]
        for first in range(0, len(references), 4096):
            products = block @ references[first : first + 4096].T
            candidates = np.flatnonzero(products > likeness)
            for offset in range(0, len(candidates), 4096):
                rows, columns = np.divmod(candidates[offset : offset + 4096], products.shape[1])
                values = compare(start + rows, first + columns)
                for number in np.flatnonzero(values > likeness).tolist():
                    query, value = start + int(rows[number]), float(values[number])
                    if value > best.get(query, (0, 0.0))[1]:
                        best[query] = first + int(columns[number]), value
        return best

    return {query: match for best in _on_all_cores(search, len(queries)) for query, match in best.items()}


def _on_all_cores(search: Callable[[int], Any], queries: int) -> list[Any]:
    """Search blocks of queries in parallel, each on one core.

    On a busy machine, the threads of a matrix product wait for each other, and are up to ten times slower than one.
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
    """Return a function that compares images (NCHW) pixel by pixel; a different light or colour is no likeness."""

    def compare(query_numbers: np.ndarray, reference_numbers: np.ndarray) -> np.ndarray:
        first, in_first = np.unique(query_numbers, return_inverse=True)
        second, in_second = np.unique(reference_numbers, return_inverse=True)
        ours, theirs = queries[first], references[second]
        likeness = np.einsum("ij,ij->i", describe(ours)[in_first], describe(theirs)[in_second])
        light = np.abs(ours.mean((2, 3))[in_first] - theirs.mean((2, 3))[in_second]).max(1)
        return np.where(light > OTHER_LIGHT, 0, likeness)

    return compare


def suspect_labels(points: np.ndarray, labels: np.ndarray, seed: int = 0) -> list[tuple[int, int, float]]:
    """Find samples whose nearest neighbours have another label, the same one in each of three reference samples.

    Args:
        points: features (N, D).

    Returns:
        Number of the sample, class of its neighbours, and their relative distance (0 to 0.75), smallest first. None if
        neighbours confirm too few labels to be trusted.
    """
    classes, counts = np.unique(labels, return_counts=True)
    classes = classes[counts >= FEWEST_OF_CLASS]
    if len(classes) < 2:
        return []
    rng = np.random.RandomState(seed)
    each = max(5, min(int(counts.max()), 6000 // (VOTES * len(classes))))
    members = [np.flatnonzero(labels == label) for label in classes]
    samples = [rng.choice(rows, each, replace=len(rows) < each) for _ in range(VOTES) for rows in members]
    rows = np.concatenate(samples)
    references = points[rows]
    halves = np.einsum("ij,ij->i", references, references) / 2
    queries = np.flatnonzero(np.isin(labels, classes))
    if len(queries) * len(rows) > MOST_NOISE_PAIRS:
        queries = np.sort(rng.choice(queries, MOST_NOISE_PAIRS // len(rows), replace=False))

    def search(start: int) -> tuple[list[tuple[int, int, float]], int]:
        chosen = queries[start : start + BLOCK]
        near = points[chosen] @ references.T
        near -= halves
        position = np.minimum(np.searchsorted(chosen, rows), len(chosen) - 1)
        itself = np.flatnonzero(chosen[position] == rows)
        near[position[itself], itself] = -np.inf
        best = near.reshape(len(chosen), VOTES, len(classes), each).max(3)
        own_length = np.einsum("ij,ij->i", points[chosen], points[chosen])[:, None, None]
        distances = np.maximum(own_length - 2 * best, 0)  # squared
        return _suspects(distances, np.searchsorted(classes, labels[chosen]), chosen, classes)

    parts = _on_all_cores(search, len(queries))
    suspects = [suspect for block, _ in parts for suspect in block]
    confirmed = sum(count for _, count in parts)
    if confirmed < max(FEWEST_CONFIRMED, CONFIRMED_PER_DOUBT * len(suspects)):
        return []
    return sorted(suspects, key=lambda suspect: (suspect[2], suspect[0]))


def _suspects(
    distances: np.ndarray, own: np.ndarray, chosen: np.ndarray, classes: np.ndarray
) -> tuple[list[tuple[int, int, float]], int]:
    """Return the suspects of a block, and the number of labels that neighbours confirm as clearly."""
    rows = np.arange(len(chosen))
    mine = distances[rows, :, own]
    others = distances.copy()
    others[rows, :, own] = np.inf
    nearest = others.argmin(2)
    is_unanimous = (nearest == nearest[:, :1]).all(1)
    share = others.min(2).max(1) / np.maximum(mine.min(1), 1e-9)
    confirmed = mine.max(1) < DOUBT * others.min((1, 2))
    suspects = [
        (int(chosen[row]), int(classes[nearest[row, 0]]), float(share[row]))
        for row in np.flatnonzero(is_unanimous & (share < DOUBT))
    ]
    return suspects, int(confirmed.sum())
