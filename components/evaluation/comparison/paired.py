"""Two networks on the same test samples: how much better is the one than the other, and is that more than chance."""

import numpy as np

from torchmill.components import tasks
from torchmill.components.errors import UserError
from torchmill.components.metrics.paired import Pairing
from torchmill.components.metrics.predictions import Predictions


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
