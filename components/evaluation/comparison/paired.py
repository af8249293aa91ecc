"""Two networks on the same test samples: how much better is the one than the other, and is that more than chance."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from torchmill.components import tasks
from torchmill.components.errors import UserError
from torchmill.components.metrics.paired import Difference, Pairing
from torchmill.components.metrics.predictions import Predictions

if TYPE_CHECKING:
    from torchmill.components.field_tasks.field_task import FieldTask

Statistics = Mapping[str, np.ndarray]


def pair_statistics(first: Statistics, second: Statistics, task: "FieldTask") -> Pairing:
    """Compare two networks by the statistics of each sample at a task over named fields, (N, …) by name.

    Shares are better if they are higher, other measures if they are lower; the task says so of its main measure.

    Raises:
        UserError: they have different statistics, or were tested on other numbers of samples.
    """
    from torchmill.components.field_tasks.statistics import difference_interval, means_of, time_blocks

    samples = len(next(iter(first.values())))
    if any(len(values) != samples for part in (first, second) for values in part.values()):
        raise UserError("The two runs were tested on other samples.", "Compare runs on the same data set.")
    measures = [task.summarized(means_of(part)) for part in (first, second)]
    blocks = time_blocks(samples, task.block) if task.block else None
    names = sorted(measures[0], key=lambda name: name != task.main_measure)
    differences = []
    for name in names:
        change, ends = difference_interval(first, second, task.summarized, name, blocks)
        higher = task.better == "higher" if name == task.main_measure else tasks.is_share(name)
        differences.append(Difference(name, measures[0][name], measures[1][name], change, ends, higher))
    return Pairing(samples, tuple(differences), None, (), ())


def pair(first: Predictions, second: Predictions, task: str) -> Pairing:
    """Compare two networks sample by sample.

    Raises:
        UserError: they did not answer the same samples.
    """
    if first.truth.shape != second.truth.shape or not np.array_equal(first.truth, second.truth):
        raise UserError(
            f"The two runs were tested on other samples: {len(first.truth):,} of the one, {len(second.truth):,} of the "
            "other, with other truths.",
            "Compare runs on the same data set, or evaluate both on it: torchmill evaluate RUN --data NAME.",
        )
    if first.outputs.shape != second.outputs.shape:
        raise UserError("The two runs answer by other numbers of classes, labels or targets: nothing to compare.")
    return tasks.task(task).pair(first, second)
