"""Digits: handwritten digits, 1,797 of 8x8 grown to 28x28, out of scikit-learn's wheel; nothing to download.

E. Alpaydin, C. Kaynak: Optical Recognition of Handwritten Digits (its test part), UCI Machine
Learning Repository, doi:10.24432/C50P49. Licence: CC BY 4.0.
"""

import gzip
import hashlib
import importlib.util
from pathlib import Path

import numpy as np

from torchmill.components.data.splits import Split, Splits
from torchmill.components.errors import UserError

CLASSES = ("0", "1", "2", "3", "4", "5", "6", "7", "8", "9")
SOURCE = "https://archive.ics.uci.edu/dataset/80/optical+recognition+of+handwritten+digits"

SHA256 = "68aea062d35a127749050fa0e52dca09d6569ac08092c925610e0954e172dde2"
"""Digest of the rows as bytes: 64 pixels from 0 to 16 and the label."""

TEST_PER_CLASS_PERCENT = 20
SPLIT_SEED = 0
"""Seed of the split: part of the data set, and not a run's seed. The same people wrote both splits."""


def load(downloads: Path) -> Splits:
    rows = read_rows(find_file())
    images_NCHW = grow(rows[:, :64].reshape(-1, 8, 8))[:, None]
    labels = rows[:, 64].astype(np.int64)
    test = choose_test(labels)
    return Splits(Split(images_NCHW[~test], labels[~test]), Split(images_NCHW[test], labels[test]))


def find_file() -> Path:
    """Find the file without importing scikit-learn, which takes seconds.

    Raises:
        UserError: scikit-learn is not installed.
    """
    spec = importlib.util.find_spec("sklearn")
    if spec is None or not spec.submodule_search_locations:
        raise UserError("The digits come with scikit-learn, which is not installed.", "Install scikit-learn.")
    return Path(spec.submodule_search_locations[0]) / "datasets" / "data" / "digits.csv.gz"


def read_rows(path: Path) -> np.ndarray:
    """Read 1,797 rows of 64 pixels (0 to 16) and a label, uint8.

    Raises:
        UserError: the file is missing, or its digest differs.
    """
    try:
        with gzip.open(path, "rt") as file:
            rows = np.loadtxt(file, delimiter=",", dtype=np.uint8, ndmin=2)
        reason = "its numbers are different"
    except (OSError, EOFError, ValueError) as error:
        rows, reason = np.empty((0, 65), np.uint8), str(error)
    if rows.shape[1] != 65 or hashlib.sha256(rows.tobytes()).hexdigest() != SHA256:
        raise UserError(f"{path} does not hold the digits: {reason}.", "Install scikit-learn anew.")
    return rows


def grow(images_NHW: np.ndarray) -> np.ndarray:
    """Resize images of 8x8, 0 to 16, to 28x28, 0 to 255, uint8, as ``interpolate(mode="bilinear")`` does.

    It computes in whole numbers (all weights are fourteenths), so that rounding is the same on every machine.
    """
    weights = np.zeros((28, 8), np.int64)
    for row in range(28):
        centre = min(max(4 * row - 5, 0), 7 * 14)  # in fourteenths of a source pixel: 14 * ((row + 0.5) * 8 / 28 - 0.5)
        source, share = divmod(centre, 14)
        weights[row, source] += 14 - share
        weights[row, min(source + 1, 7)] += share
    grown = weights @ images_NHW.astype(np.int64) @ weights.T  # in 196ths
    scale = 14 * 14 * 16
    return ((grown * 255 + scale // 2) // scale).astype(np.uint8)


def choose_test(labels: np.ndarray) -> np.ndarray:
    """Return a mask that marks a fifth of each class for testing, always the same."""
    # RandomState rather than default_rng: numpy promises never to change its numbers (NEP 19).
    rng = np.random.RandomState(SPLIT_SEED)
    test = np.zeros(len(labels), bool)
    for label in range(len(CLASSES)):
        members = np.flatnonzero(labels == label)
        test[rng.permutation(members)[: len(members) * TEST_PER_CLASS_PERCENT // 100]] = True
    return test
