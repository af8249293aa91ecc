"""Statistics of samples, from which measures and their intervals follow."""

import logging
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from torchmill.components.errors import UserError
from torchmill.components.files import write_arrays
from torchmill.components.state_files import Damaged

logger = logging.getLogger("torchmill")

Interval = tuple[float, float]
Summarize = Callable[[Mapping[str, Tensor]], dict[str, float]]
"""Function from means of statistics to measures."""

FEW_BLOCKS = 10
"""Blocks of time below which intervals are said to be rough."""

RESAMPLES = 2000

MOST_BLOCKS = 1000
"""Blocks of samples that an interval is computed from: the bootstrap then calls a task's code 3,000 times at most."""


@dataclass
class SampleStatistics:
    """Statistics of each sample by name, float64 (N, …).

    Example:
        >>> statistics.add({"right": torch.tensor([1.0, 0.0])})  # doctest: +SKIP
        >>> statistics.measures()["right"], statistics.intervals()["right"]  # doctest: +SKIP
    """

    summarize: Summarize
    parts: list[dict[str, Tensor]] = field(default_factory=list)

    def add(self, statistics: Mapping[str, Tensor]) -> None:
        """Add the statistics of some samples."""
        self.parts.append(dict(statistics))

    @property
    def arrays(self) -> dict[str, np.ndarray]:
        """Statistics of all samples, float64 (N, …), by name."""
        return {name: torch.cat([part[name] for part in self.parts]).numpy() for name in self.parts[0]}

    def measures(self) -> dict[str, float]:
        """Return the measures over all samples."""
        names = self.parts[0]
        return self.summarize({name: torch.cat([part[name] for part in self.parts]).mean(0) for name in names})

    def intervals(self, blocks: np.ndarray | None = None) -> dict[str, Interval]:
        """Return the 95 % intervals of the measures, by the bootstrap over samples.

        Args:
            blocks: number of each sample's block, (N,): samples of a block are drawn together. None for single samples.
        """
        return bootstrapped(self.arrays, self.summarize, blocks)


def bootstrapped(
    arrays: Mapping[str, np.ndarray], summarize: Summarize, blocks: np.ndarray | None = None
) -> dict[str, Interval]:
    """Return 95 % intervals of measures that follow from the means of statistics, (N, …) by name.

    Args:
        blocks: number of each sample's block, (N,); None for single samples.
    """
    from torchmill.components.metrics.intervals import bootstrap_intervals  # which imports scipy

    features, measures_of = _by_sums(arrays, summarize, blocks)
    names: list[str] = []

    def statistic(sums: np.ndarray) -> np.ndarray:
        rows = []
        for row in sums.reshape(-1, sums.shape[-1]):
            measures = measures_of(row)
            names[:] = measures
            rows.append(list(measures.values()))
        return np.array(rows).reshape(*sums.shape[:-1], len(names))

    ends = bootstrap_intervals(features, statistic)
    return {name: (float(low), float(high)) for name, (low, high) in zip(names, ends, strict=True)}


def time_blocks(samples: int, least: int) -> np.ndarray:
    """Return the number of each sample's block, (N,): blocks of samples that follow each other, about √N of each √N.

    Args:
        least: smallest number of samples of a block.
    """
    size = max(least, math.ceil(math.sqrt(samples)))
    count = max(1, samples // size)
    if count < FEW_BLOCKS:
        logger.warning(
            "evaluate  intervals of %d samples in %d blocks of time are rough: test on a longer series", samples, count
        )
    return np.minimum(np.arange(samples) // size, count - 1)


def resampled_measures(
    arrays: Mapping[str, np.ndarray], summarize: Summarize, blocks: np.ndarray | None = None
) -> tuple[dict[str, float], np.ndarray]:
    """Return measures, and the measures of resamples of the samples, (RESAMPLES, measures), with a fixed seed.

    Args:
        blocks: number of each sample's block, (N,); None for single samples.
    """
    features, measures_of = _by_sums(arrays, summarize, blocks)
    shares = np.full(len(features), 1 / len(features))
    draws = np.random.default_rng(0).multinomial(len(features), shares, RESAMPLES) @ features
    return measures_of(features.sum(0)), np.array([list(measures_of(row).values()) for row in draws])


def _by_sums(
    arrays: Mapping[str, np.ndarray], summarize: Summarize, blocks: np.ndarray | None
) -> tuple[np.ndarray, Callable[[np.ndarray], dict[str, float]]]:
    """Return statistics as rows of numbers, (N, K), and a function from sums of such rows, (K,), to measures."""
    shapes = {name: values.shape[1:] for name, values in arrays.items()}
    columns = [values.reshape(len(values), -1).astype(np.float64) for values in arrays.values()]
    features = _summed(np.concatenate([*columns, np.ones((len(columns[0]), 1))], 1), blocks)
    widths = np.cumsum([column.shape[1] for column in columns])[:-1]

    def measures_of(sums: np.ndarray) -> dict[str, float]:
        means = zip(shapes, np.split(sums[:-1] / max(sums[-1], 1e-300), widths), strict=True)
        return summarize({name: torch.from_numpy(np.reshape(mean, shapes[name])) for name, mean in means})

    return features, measures_of


def _summed(features: np.ndarray, blocks: np.ndarray | None) -> np.ndarray:
    """Return sums over blocks of samples; of many samples over MOST_BLOCKS blocks of samples in a random order."""
    if blocks is None:
        if len(features) <= MOST_BLOCKS:
            return features
        blocks = np.random.default_rng(0).permutation(len(features)) % MOST_BLOCKS
    _, number = np.unique(blocks, return_inverse=True)
    sums = np.zeros((number.max() + 1, features.shape[1]))
    np.add.at(sums, number.ravel(), features)
    return sums


def difference_interval(
    first: Mapping[str, np.ndarray],
    second: Mapping[str, np.ndarray],
    summarize: Summarize,
    measure: str,
    blocks: np.ndarray | None = None,
) -> tuple[float, Interval]:
    """Return the second's measure minus the first's over the same samples, with its paired 95 % interval.

    Args:
        blocks: number of each sample's block, (N,); None for single samples.

    Raises:
        UserError: the two have different statistics.
    """
    if first.keys() != second.keys() or any(first[name].shape != second[name].shape for name in first):
        raise UserError("The two runs have different statistics.", "Evaluate them again with the same task.")
    joined = {f"0{name}": values for name, values in first.items()} | {f"1{name}": v for name, v in second.items()}

    def difference(means: Mapping[str, Tensor]) -> dict[str, float]:
        halves = [
            summarize({name[1:]: value for name, value in means.items() if name[0] == half})[measure] for half in "01"
        ]
        return {"difference": halves[1] - halves[0]}

    return difference(means_of(joined))["difference"], bootstrapped(joined, difference, blocks)["difference"]


def means_of(arrays: Mapping[str, np.ndarray]) -> dict[str, Tensor]:
    """Return the means of statistics over samples, float64, by name."""
    return {name: torch.from_numpy(values.astype(np.float64)).mean(0) for name, values in arrays.items()}


def write_statistics(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Write statistics into an ``.npz`` file, in single precision."""
    write_arrays(path, {name: values.astype(np.float32) for name, values in arrays.items()}, compress=True)


def read_statistics(path: Path) -> dict[str, np.ndarray]:
    """Read such a file.

    Raises:
        UserError: the file is damaged.
    """
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return {name: arrays[name] for name in arrays.files}
    except (OSError, ValueError, Damaged, EOFError) as error:
        raise UserError(f"{path} holds no statistics: {error}", "Evaluate that run again.") from error
