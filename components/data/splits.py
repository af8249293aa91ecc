"""A data set of images in memory, on its way from its source into the cache."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, eq=False)
class Splits:
    """What the ``load`` of a data set returns."""

    train_images: np.ndarray
    """uint8, NCHW."""
    train_labels: np.ndarray
    """int64, from 0 to the number of classes less one."""
    test_images: np.ndarray
    test_labels: np.ndarray
