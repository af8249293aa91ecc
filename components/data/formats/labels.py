"""Labels as they are given, texts or numbers, as the classes, yes-or-no labels or targets that they mean."""

import logging
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from torchmill.components.errors import UserError
from torchmill.components.refs import Task

logger = logging.getLogger("torchmill")

MOST_CLASSES = 10_000
FEW = 20
"""Different whole numbers, given as fractions, that may be meant as classes."""


@dataclass(frozen=True, eq=False)
class Labels:
    values: dict[str, np.ndarray]
    """By split: classes int64 (N,), labels uint8 (N, K), or targets float32 (N, K)."""
    classes: tuple[str, ...]
    task: Task


def in_order(names: Iterable[str]) -> list[str]:
    """Sort names as people do: 2 before 10."""

    def key(name: str) -> tuple[list[tuple[int, int, str]], str]:
        parts = re.split(r"([0-9]+)", name)
        return [(0, int(part), "") if part.isdigit() else (1, 0, part.casefold()) for part in parts if part], name

    return sorted(names, key=key)


def read_labels(
    given: Mapping[str, np.ndarray | Sequence[str]],
    place: str,
    task: Task | None = None,
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
        if told := _rather_classes(arrays["train"], task):
            logger.warning("%s: %s", place, told)
    match task:
        case "classification":
            return _classes(arrays, place, classes)
        case "multilabel":
            return _several(arrays, place, classes)
        case _:
            return _targets(arrays, place, classes)


def _words(values: np.ndarray | Sequence[str]) -> str:
    return f"{values.dtype} {values.shape}" if isinstance(values, np.ndarray) else "texts"


def _meant(train: np.ndarray, place: str) -> Task:
    if train.ndim > 2:
        raise UserError(f"{place}: labels have the shape {train.shape}.", "Give (N,) or (N, K).")
    if train.dtype.kind == "f":
        return "regression"
    if train.ndim == 1:
        return "classification"
    if train.dtype.kind in "biu" and train.min() >= 0 and train.max() <= 1:
        return "multilabel"
    raise UserError(
        f"{place}: labels are whole numbers of the shape {train.shape}, from {train.min()} to {train.max()}.",
        "One class per sample is (N,); several yes or no are (N, K) of 0 and 1; targets are fractions.",
    )


def _rather_classes(train: np.ndarray, task: Task) -> str:
    """Say so where labels are taken for targets or for several yes or no, and look like classes."""
    if task == "multilabel" and train.shape[1] > 1 and (train.sum(1) == 1).all():
        return (
            f"each sample has exactly one of the {train.shape[1]} labels, and they are taken as yes or no each. Where "
            'they are classes, say "task": "classification" beside "train".'
        )
    if task == "regression" and train.ndim == 1 and np.isfinite(train).all() and (train == np.floor(train)).all():
        found = len(np.unique(train))
        if 1 < found <= min(FEW, len(train) / 2):
            return (
                f"labels are {found} different whole numbers, and taken as targets of a regression, since they are "
                f"{train.dtype}. Where they are classes, make them int64, or say "
                '"task": "classification" beside "train".'
            )
    return ""


def _classes(arrays: dict[str, np.ndarray], place: str, classes: tuple[str, ...]) -> Labels:
    train = arrays["train"]
    if (
        train.ndim == 2
        and train.dtype.kind in "biuf"
        and ((train == 0) | (train == 1)).all()
        and (train.sum(1) == 1).all()
    ):
        arrays = {split: array.argmax(1) for split, array in arrays.items()}  # one-hot
        classes = classes or tuple(map(str, range(train.shape[1])))
        train = arrays["train"]
    if train.ndim != 1:
        raise UserError(f"{place}: labels of classes have the shape {train.shape}.", "Give (N,).")
    if train.dtype.kind == "f":
        for split, array in arrays.items():
            if (array != np.floor(array)).any():
                raise UserError(f"{place}: labels of {split} are fractions, not classes.", "Is the task regression?")
        arrays = {split: array.astype(np.int64) for split, array in arrays.items()}
    if classes and train.dtype.kind in "biu":
        return _numbered(arrays, place, classes)
    texts = {split: [str(value) for value in array.tolist()] for split, array in arrays.items()}
    return named(texts, place, classes)


def named(texts: Mapping[str, Sequence[str]], place: str, classes: tuple[str, ...] = ()) -> Labels:
    """Number the classes that are given by name, in their natural order."""
    found = set(texts["train"])
    order = classes or tuple(in_order(found))
    for split, values in texts.items():
        if unknown := set(values) - (found if not classes else set(order)):
            whose = "train does not have" if not classes else "'classes' does not name"
            raise UserError(
                f"{place}: {split} has {_count(len(unknown), 'class', 'classes')} that {whose}: "
                f"{_some(in_order(unknown))}.",
                "A network can't answer what it never saw.",
            )
    _check_number(len(found), len(texts["train"]), place, found)
    ids = {name: number for number, name in enumerate(order)}
    values = {split: np.array([ids[one] for one in held], np.int64) for split, held in texts.items()}
    return Labels(values, order, "classification")


def _numbered(arrays: dict[str, np.ndarray], place: str, classes: tuple[str, ...]) -> Labels:
    for split, array in arrays.items():
        if array.min() < 0 or array.max() >= len(classes):
            raise UserError(
                f"{place}: labels of {split} go from {array.min()} to {array.max()}, with {len(classes)} classes.",
                "Count classes from 0.",
            )
    _check_number(len(np.unique(arrays["train"])), len(arrays["train"]), place, classes)
    return Labels({split: array.astype(np.int64) for split, array in arrays.items()}, classes, "classification")


def _check_number(found: int, samples: int, place: str, names: Iterable[str]) -> None:
    if found < 2:
        raise UserError(f"{place}: all labels are the same, {_some(sorted(names))}.", "Two classes at least.")
    if found > MOST_CLASSES or (found > 20 and found > samples / 2):
        raise UserError(
            f"{place}: {found:,} different labels of {samples:,} samples are too many classes.",
            "Is the task regression, or the label another column?",
        )


def _several(arrays: dict[str, np.ndarray], place: str, classes: tuple[str, ...]) -> Labels:
    width = _width(arrays, place, classes)
    for split, array in arrays.items():
        if array.dtype.kind not in "biuf" or not ((array == 0) | (array == 1)).all():
            raise UserError(
                f"{place}: labels of {split} are not all 0 or 1.", "Several yes or no are (N, K) of 0 and 1."
            )
    values = {split: array.reshape(len(array), -1).astype(np.uint8) for split, array in arrays.items()}
    return Labels(values, classes or tuple(f"label {number}" for number in range(width)), "multilabel")


def _targets(arrays: dict[str, np.ndarray], place: str, classes: tuple[str, ...]) -> Labels:
    width = _width(arrays, place, classes)
    values = {}
    for split, array in arrays.items():
        if array.dtype.kind not in "biuf":
            raise UserError(f"{place}: labels of {split} are texts, and no targets of a regression.", "Give numbers.")
        values[split] = array.reshape(len(array), -1).astype(np.float32)
        if wrong := np.flatnonzero(~np.isfinite(values[split]).all(1)).tolist():
            raise UserError(
                f"{place}: {len(wrong):,} targets of {split} are no finite numbers; the first is number {wrong[0]}."
            )
    for number in np.flatnonzero(values["train"].std(0) == 0).tolist():
        raise UserError(
            f"{place}: target {number} is {values['train'][0, number]:g} in all of train.", "Nothing to learn."
        )
    plain = ("target",) if width == 1 else tuple(f"target {number}" for number in range(width))
    return Labels(values, classes or plain, "regression")


def _width(arrays: dict[str, np.ndarray], place: str, classes: tuple[str, ...]) -> int:
    widths = {split: 1 if array.ndim == 1 else array.shape[1] for split, array in arrays.items()}
    for split, width in widths.items():
        if width != widths["train"]:
            raise UserError(f"{place}: {split} has {width} labels of each sample, train has {widths['train']}.")
    if classes and len(classes) != widths["train"]:
        raise UserError(f"{place}: {len(classes)} names in 'classes', and {widths['train']} labels of each sample.")
    return widths["train"]


def _some(names: Sequence[str], most: int = 5) -> str:
    shown = ", ".join(map(repr, names[:most]))
    return shown + (f" and {len(names) - most:,} more" if len(names) > most else "")


def _count(number: int, one: str, many: str) -> str:
    return f"a {one}" if number == 1 else f"{number:,} {many}"
