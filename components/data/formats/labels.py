"""Labels as texts or numbers, converted to classes, yes-or-no labels or targets."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from torchmill.components import tasks
from torchmill.components.errors import UserError

logger = logging.getLogger("torchmill")


@dataclass(frozen=True, eq=False)
class Labels:
    """The labels of all splits."""

    values: dict[str, np.ndarray]
    """Classes int64 (N,), labels uint8 (N, K), or targets float32 (N, K), by split."""
    classes: tuple[str, ...]
    task: str


def read_labels(
    raw: Mapping[str, np.ndarray | Sequence[str]],
    place: str,
    task: str | None = None,
    classes: tuple[str, ...] = (),
) -> Labels:
    """Convert raw labels. Those of train decide the task, unless ``task`` names it.

    Args:
        raw: texts or numbers by split.
        place: file or function, for errors.
        classes: names of the classes; for texts they set the order, for numbers the number of classes.

    Raises:
        UserError: labels fit no task, or a split has a class that train lacks.
    """
    train = raw["train"]
    for split, values in raw.items():
        if isinstance(values, np.ndarray) != isinstance(train, np.ndarray):
            raise UserError(f"{place}: labels of train are {_words(train)}, those of {split} are {_words(values)}.")
    arrays = {split: np.asarray(values) for split, values in raw.items()}
    if all(array.ndim == 2 and array.shape[1] == 1 for array in arrays.values()) and task != "multilabel":
        arrays = {split: array[:, 0] for split, array in arrays.items()}
    if len(set(classes)) < len(classes):
        repeated = next(name for name in classes if classes.count(name) > 1)
        raise UserError(f"{place}: 'classes' names '{repeated}' twice.", "Give each class a different name.")
    if not task:
        task = _task_of(arrays["train"], place)
        if doubts := tasks.task(task).doubts(arrays["train"]):
            logger.warning("%s: %s", place, doubts)
    return Labels(*tasks.task(task).read_labels(arrays, place, classes), task)


def _words(values: np.ndarray | Sequence[str]) -> str:
    return f"{values.dtype} {values.shape}" if isinstance(values, np.ndarray) else "texts"


def _task_of(train: np.ndarray, place: str) -> str:
    if train.ndim > 2:
        raise UserError(f"{place}: labels have the shape {train.shape}.", "Give (N,) or (N, K).")
    for name in tasks.names():
        if tasks.task(name).recognizes(train):
            return name
    raise UserError(
        f"{place}: labels are whole numbers of the shape {train.shape}, from {train.min()} to {train.max()}.",
        "One class per sample is (N,); several yes or no are (N, K) of 0 and 1; targets are fractions.",
    )
