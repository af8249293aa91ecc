"""Labels as they are given, texts or numbers, as the classes, yes-or-no labels or targets that they mean."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from torchmill.components import tasks
from torchmill.components.errors import UserError

logger = logging.getLogger("torchmill")


@dataclass(frozen=True, eq=False)
class Labels:
    values: dict[str, np.ndarray]
    """By split: classes int64 (N,), labels uint8 (N, K), or targets float32 (N, K)."""
    classes: tuple[str, ...]
    task: str


def read_labels(
    given: Mapping[str, np.ndarray | Sequence[str]],
    place: str,
    task: str | None = None,
    classes: tuple[str, ...] = (),
) -> Labels:
    """Make labels of what each split gives; what they mean follows from what train gives, unless ``task`` says it.

    Args:
        place: named in errors.
        classes: names; of texts these decide the order, of numbers the number of classes.

    Raises:
        UserError: they fit no task, or a split holds a class that train has not.
    """
    train = given["train"]
    for split, values in given.items():
        if isinstance(values, np.ndarray) != isinstance(train, np.ndarray):
            raise UserError(f"{place}: labels of train are {_words(train)}, those of {split} are {_words(values)}.")
    arrays = {split: np.asarray(values) for split, values in given.items()}
    if all(array.ndim == 2 and array.shape[1] == 1 for array in arrays.values()) and task != "multilabel":
        arrays = {split: array[:, 0] for split, array in arrays.items()}
    if len(set(classes)) < len(classes):
        twice = next(name for name in classes if classes.count(name) > 1)
        raise UserError(f"{place}: 'classes' names '{twice}' twice.", "Give each class a name of its own.")
    if not task:
        task = _meant(arrays["train"], place)
        if doubts := tasks.task(task).doubts(arrays["train"]):
            logger.warning("%s: %s", place, doubts)
    return Labels(*tasks.task(task).read_labels(arrays, place, classes), task)


def _words(values: np.ndarray | Sequence[str]) -> str:
    return f"{values.dtype} {values.shape}" if isinstance(values, np.ndarray) else "texts"


def _meant(train: np.ndarray, place: str) -> str:
    if train.ndim > 2:
        raise UserError(f"{place}: labels have the shape {train.shape}.", "Give (N,) or (N, K).")
    for name in tasks.names():
        if tasks.task(name).recognizes(train):
            return name
    raise UserError(
        f"{place}: labels are whole numbers of the shape {train.shape}, from {train.min()} to {train.max()}.",
        "One class per sample is (N,); several yes or no are (N, K) of 0 and 1; targets are fractions.",
    )
