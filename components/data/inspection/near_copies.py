"""Near copies of images: a search among projections with a stated recall and a bounded number of operations."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import betaincinv
from threadpoolctl import threadpool_limits

from torchmill.components.data.inspection.blocks import BLOCK, on_all_cores

SIDE = 32
"""Size, in pixels, to which larger images are reduced before they are compared."""

PRINCIPAL, RANDOM = 24, 40
"""Number of principal and of random directions of a projection."""

RECALL = 0.999
"""Share of near copies that pass the comparison of projections, at least."""

MOST_WORK = 1_000_000_000
"""Largest work of all searches, in pairs of projections; beyond it, a sample of the test images stands for all.

Two slow cores take 2 ns for a pair. So a search stays below the 10 s that each step may take, whatever the training's
length. The bound counts operations: a limit in seconds would make the findings depend on the machine's load.
"""

CANDIDATE_WORK, VALUES_OF_CANDIDATE = 1500, 784
"""Work to compare the pixels of two images, in pairs of projections, for each so many values of an image."""

FLAT = 2.0
"""Standard deviation, in grey levels, below which an image holds noise alone and is compared for equality only."""

OTHER_LIGHT = 40.0
"""Difference of two images' means, in grey levels of any channel, above which they are different images."""

REFERENCES, CANDIDATES = 2048, 4096
"""Number of references, and of candidates, that are compared at once."""


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
    """Principal directions of descriptions, and random directions orthogonal to them.

    The squared distance of two projections is exact along the principal directions. The remainder of the difference
    lies in D' dimensions. The share of its square that m random ones of these hold follows Beta(m/2, (D' - m)/2),
    whatever the images are. So the estimate exceeds the true square by more than ``slack``, the quantile at ``RECALL``
    over the mean m/D', for at most 0.1 % of the pairs. The search misses no other near copy.
    """

    directions: np.ndarray
    """Orthogonal columns (D, principal + random); the random ones are scaled by √(D'/m)."""
    principal: int
    slack: float

    @classmethod
    def of(cls, described: np.ndarray) -> "Projection":
        """Compute the directions from a sample of descriptions; the principal ones by power iteration.

        They approximate the eigenvectors. Exact ones take far longer and change the speed alone.
        """
        width = described.shape[1]
        principal = min(PRINCIPAL, width)
        random = min(RANDOM, width - principal)
        drawn = np.random.RandomState(0).standard_normal((width, principal + random)).astype(np.float32)
        directions = drawn[:, :principal]
        with threadpool_limits(1, "blas"):
            spread = described.T @ described
            for _ in range(4):
                directions, _ = np.linalg.qr(spread @ directions)
            directions, _ = np.linalg.qr(np.concatenate([directions, drawn[:, principal:]], 1))
        rest, slack = width - principal, 1.0
        if random < rest:
            directions[:, principal:] *= (rest / random) ** 0.5
            slack = float(betaincinv(random / 2, (rest - random) / 2, RECALL)) * rest / random
        return cls(np.ascontiguousarray(directions), principal, slack)

    def __call__(self, described: np.ndarray) -> np.ndarray:
        """Return (N, 1 + principal + random): the length of the remainder comes first."""
        projected = described @ self.directions
        exact = projected[:, : self.principal]
        lengths = np.einsum("ij,ij->i", described, described)
        rest = np.maximum(lengths - np.einsum("ij,ij->i", exact, exact), 0)
        return np.concatenate([np.sqrt(rest)[:, None], projected], 1)

    def project(self, images_NCHW: np.ndarray) -> np.ndarray:
        """Describe and project all images, block by block."""
        return np.concatenate(
            on_all_cores(lambda start: self(describe(images_NCHW[start : start + BLOCK])), len(images_NCHW))
        )

    def features(self, points: np.ndarray) -> np.ndarray:
        """Return the principal parts of projections, and the lengths of the remainders."""
        return np.ascontiguousarray(points[:, : 1 + self.principal])


Compare = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""Function that returns the likeness, at most 1, of queries and references by their numbers."""


class CopySearch:
    """A search for the queries that have a near copy among the references.

    A near copy is nearer than a twelfth of the usual distance to the nearest reference. An absolute limit would not do:
    digits of few pixels are alike without being copies.

    Both are sorted by their first principal coordinate, in which near copies differ by no more than their distance. So
    each block of queries is compared with a window of the references.

    Args:
        queries: projected images; so are the references.
    """

    def __init__(
        self, projection: Projection, queries: np.ndarray, references: np.ndarray, compare: Compare, values: int
    ):
        self._compare = compare
        self._first = queries[:, 1]
        self._rows = np.argsort(references[:, 1], kind="stable")
        self._firsts = references[self._rows, 1]
        halves, other_halves = _halves(queries), _halves(references[self._rows])
        ones, other_ones = np.ones_like(halves), np.ones_like(other_halves)
        # The product of two rows is -1/2 times the squared distance.
        self._queries = np.concatenate([queries[:, 1:], halves, ones], 1)
        self._references = np.concatenate([references[self._rows, 1:], other_ones, other_halves], 1)
        pilot = np.unique(np.linspace(0, len(queries) - 1, min(BLOCK, len(queries))).astype(int))
        self.likeness = 1 - self._limit(pilot)
        self._nearest = -projection.slack * (1 - self.likeness)
        self._reach = (2 * (1 - self.likeness)) ** 0.5
        candidates = sum(len(numbers) for _, numbers in self._candidates(pilot))
        self._candidate_work = candidates / len(pilot) * CANDIDATE_WORK * max(1.0, values / VALUES_OF_CANDIDATE)

    def work(self, chosen: np.ndarray) -> float:
        """Return the work to search for some queries: compared pairs, and the candidates that a pilot expects."""
        pairs = sum(len(block) * (end - start) for block, start, end in self._windows(chosen))
        return pairs + len(chosen) * self._candidate_work

    def find(self, chosen: np.ndarray) -> dict[int, tuple[int, float]]:
        """Return the most similar reference and the likeness for each chosen query that has a near copy."""
        order = chosen[np.argsort(self._first[chosen], kind="stable")]

        def search(start: int) -> dict[int, tuple[int, float]]:
            best: dict[int, tuple[int, float]] = {}
            for queries, references in self._candidates(order[start : start + BLOCK]):
                for offset in range(0, len(queries), CANDIDATES):
                    part = slice(offset, offset + CANDIDATES)
                    values = self._compare(queries[part], references[part])
                    for number in np.flatnonzero(values > self.likeness).tolist():
                        query, value = int(queries[part][number]), float(values[number])
                        if value > best.get(query, (0, 0.0))[1]:
                            best[query] = int(references[part][number]), value
            return best

        return {query: match for best in on_all_cores(search, len(order)) for query, match in best.items()}

    def _windows(self, chosen: np.ndarray) -> Iterator[tuple[np.ndarray, int, int]]:
        """Yield blocks of queries, each with the range of the sorted references that near copies lie in."""
        order = chosen[np.argsort(self._first[chosen], kind="stable")]
        for offset in range(0, len(order), BLOCK):
            block = order[offset : offset + BLOCK]
            ends = self._first[block[0]] - self._reach, self._first[block[-1]] + self._reach
            start, end = np.searchsorted(self._firsts, ends).tolist()
            yield block, start, end

    def _candidates(self, chosen: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield pairs of a query and a reference whose projections are near, by their numbers."""
        for block, begin, end in self._windows(chosen):
            rows = self._queries[block]
            for start in range(begin, end, REFERENCES):
                stop = min(start + REFERENCES, end)
                products = rows @ self._references[start:stop].T
                near = np.flatnonzero(products >= self._nearest)
                if len(near):
                    at, columns = np.divmod(near, stop - start)
                    yield block[at], self._rows[start + columns]

    def _limit(self, pilot: np.ndarray) -> float:
        rows = self._queries[pilot]
        highest, nearest = np.full(len(pilot), -np.inf, np.float32), np.zeros(len(pilot), int)
        with threadpool_limits(1, "blas"):
            for start in range(0, len(self._references), REFERENCES):
                products = rows @ self._references[start : start + REFERENCES].T
                column = products.argmax(1)
                value = products[np.arange(len(pilot)), column]
                nearest = np.where(value > highest, start + column, nearest)
                highest = np.maximum(highest, value)
        usual = 1 - float(np.median(self._compare(pilot, self._rows[nearest])))
        return min(max(usual / 12, 0.002), 0.03)


def _halves(points: np.ndarray) -> np.ndarray:
    """Return minus half the squared lengths (N, 1); flat images lie far from everything."""
    halves = -np.einsum("ij,ij->i", points[:, 1:], points[:, 1:]) / 2
    return np.where(points.any(1), halves, -1e3).astype(np.float32)[:, None]


def affordable(searches: Sequence[CopySearch], queries: int, most_work: float = MOST_WORK) -> np.ndarray:
    """Return the numbers of the queries to search for: all, or a random sample whose work stays below the limit.

    The sample depends on the images alone, not on the machine's speed.
    """
    order = np.random.RandomState(0).permutation(queries)
    count = queries
    while count > 1 and (work := sum(search.work(order[:count]) for search in searches)) > most_work:
        count = max(1, int(count * min(0.95, most_work / work)))
    return np.sort(order[:count])


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
