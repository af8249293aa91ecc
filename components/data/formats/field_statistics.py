"""Means and deviations of fields."""

import numpy as np

Moments = tuple[tuple[float, ...], tuple[float, ...]]


def moments(values: np.ndarray) -> Moments:
    """Return mean and deviation of each channel or feature, in blocks: the array may be larger than the memory."""
    width = values.shape[1] if values.ndim > 1 else 1
    sums, squares, number = np.zeros(width), np.zeros(width), 0
    centre = values[:1024].reshape(min(len(values), 1024), width, -1).astype(np.float64).mean((0, 2))
    for start in range(0, len(values), 1024):
        block = values[start : start + 1024].astype(np.float64)
        block = block.reshape(len(block), width, -1) - centre[:, None]
        sums += block.sum((0, 2))
        squares += (block**2).sum((0, 2))
        number += block.shape[0] * block.shape[2]
    mean = sums / number
    return tuple((centre + mean).tolist()), tuple(np.sqrt(np.maximum(squares / number - mean**2, 0)).tolist())


def ragged_moments(values: np.ndarray, lengths: np.ndarray) -> Moments:
    """Return mean and deviation of each feature over the steps of ragged samples (N, L, …, F); of (N, L) one each."""
    width = values.shape[-1] if values.ndim > 2 else 1
    sums, squares, number = np.zeros(width), np.zeros(width), 0
    centre = np.asarray(values[0, : lengths[0]], np.float64).reshape(-1, width).mean(0)
    for row, length in zip(values, lengths.tolist(), strict=True):
        steps = np.asarray(row[:length], np.float64).reshape(-1, width) - centre
        sums += steps.sum(0)
        squares += (steps**2).sum(0)
        number += len(steps)
    mean = sums / number
    return tuple((centre + mean).tolist()), tuple(np.sqrt(np.maximum(squares / number - mean**2, 0)).tolist())
