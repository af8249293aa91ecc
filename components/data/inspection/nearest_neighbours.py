"""Labels that differ from their neighbours'; an exact search of bounded cost, in numpy."""

from typing import NamedTuple

import numpy as np

from torchmill.components.data.inspection.blocks import BLOCK, on_all_cores

MOST_NOISE_PAIRS = 400_000_000
"""Largest number of pairs to compare for suspect labels; beyond it, a sample of the images stands for all."""

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


class SuspectLabels(NamedTuple):
    suspects: list[tuple[int, int, float]]
    """Number of the sample, class of its neighbours, and their relative distance (0 to 0.75), smallest first."""
    share: float
    """Share of the samples that were compared with their neighbours: all of them, or a random sample."""


def suspect_labels(points: np.ndarray, labels: np.ndarray, seed: int = 0) -> SuspectLabels:
    """Find samples whose nearest neighbours have another label, the same one in each of three reference samples.

    Args:
        points: features (N, D).

    Returns:
        No suspects if neighbours confirm too few labels to be trusted.
    """
    classes, counts = np.unique(labels, return_counts=True)
    classes = classes[counts >= FEWEST_OF_CLASS]
    if len(classes) < 2:
        return SuspectLabels([], 1.0)
    rng = np.random.RandomState(seed)
    each = max(5, min(int(counts.max()), 6000 // (VOTES * len(classes))))
    members = [np.flatnonzero(labels == label) for label in classes]
    samples = [rng.choice(rows, each, replace=len(rows) < each) for _ in range(VOTES) for rows in members]
    # The members of a class are far apart, since numpy takes maxima over a first axis several times faster.
    rows = np.stack(samples, 1).ravel()
    references = points[rows]
    halves = np.einsum("ij,ij->i", references, references) / 2
    queries = np.flatnonzero(np.isin(labels, classes))
    share = min(1.0, MOST_NOISE_PAIRS // len(rows) / len(queries))
    if share < 1:
        queries = np.sort(rng.choice(queries, MOST_NOISE_PAIRS // len(rows), replace=False))

    def search(start: int) -> tuple[list[tuple[int, int, float]], int]:
        chosen = queries[start : start + BLOCK]
        near = points[chosen] @ references.T
        near -= halves
        position = np.minimum(np.searchsorted(chosen, rows), len(chosen) - 1)
        itself = np.flatnonzero(chosen[position] == rows)
        near[position[itself], itself] = -np.inf
        best = near.reshape(len(chosen), each, VOTES, len(classes)).max(1)
        own_length = np.einsum("ij,ij->i", points[chosen], points[chosen])[:, None, None]
        distances = np.maximum(own_length - 2 * best, 0)  # squared
        return _suspects(distances, np.searchsorted(classes, labels[chosen]), chosen, classes)

    parts = on_all_cores(search, len(queries))
    suspects = [suspect for block, _ in parts for suspect in block]
    confirmed = sum(count for _, count in parts)
    if confirmed < max(FEWEST_CONFIRMED, CONFIRMED_PER_DOUBT * len(suspects)):
        suspects = []
    return SuspectLabels(sorted(suspects, key=lambda suspect: (suspect[2], suspect[0])), share)


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
