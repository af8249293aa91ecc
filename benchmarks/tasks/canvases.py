"""MNIST's digits on canvases, with a mask of their classes: `torchmill train --data canvases.py:canvases`."""

import numpy as np

from torchmill.components.data.fetch import fetch
from torchmill.components.runs.folders import data_cache

SIDE, CELL = 96, 32


def canvases(samples: int = 1200, test_samples: int = 300, seed: int = 0):
    """Return canvases of 96 x 96 pixels, with four to nine digits in a grid, each moved by up to two pixels.

    A pixel is of a digit's class, counted from 1, if it is brighter than half; all others are ground, 0.
    """
    folder = fetch("mnist", data_cache()).folder
    return {
        "train": composed(folder, "train", samples, seed),
        "test": composed(folder, "test", test_samples, seed + 1),
        "names": {"mask": ["ground", *map(str, range(10))]},
    }


def composed(folder, split, samples, seed):
    rng = np.random.default_rng(seed)
    digits, labels = (np.load(folder / f"{split}_{part}.npy", mmap_mode="r") for part in ("inputs", "labels"))
    images = np.zeros((samples, SIDE, SIDE), np.uint8)
    masks = np.zeros((samples, SIDE, SIDE), np.int64)
    for image, mask in zip(images, masks, strict=True):
        for cell in rng.permutation(9)[: rng.integers(4, 10)]:
            row, column = CELL * np.array(divmod(cell, 3)) + rng.integers(0, 5, 2)
            chosen = rng.integers(len(digits))
            place = slice(row, row + 28), slice(column, column + 28)
            image[place] = digits[chosen, 0]
            mask[place][digits[chosen, 0] > 127] = 1 + labels[chosen]
    return {"image": images, "mask": masks}
