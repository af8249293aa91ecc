"""Names of classes in their natural order, and the numbers that stand for them."""

import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from torchmill.components.errors import UserError, shortened

MOST_CLASSES = 10_000
"""Largest number of classes."""

Numbered = tuple[dict[str, np.ndarray], tuple[str, ...]]
"""Labels by split, and the names of the classes."""


def in_order(names: Iterable[str]) -> list[str]:
    """Sort names as people do: 2 before 10."""

    def key(name: str) -> tuple[list[tuple[int, int, str]], str]:
        # The digits 0 to 9 alone: neither ① nor ² is a number to int(), though both are digits to str.isdigit().
        parts = [part for part in re.split(r"([0-9]+)", name) if part]
        return [(0, int(part), "") if part[0] in "0123456789" else (1, 0, part.casefold()) for part in parts], name

    return sorted(names, key=key)


def composed(name: str) -> str:
    """Return a name with composed characters (NFC), in which macOS differs from other systems."""
    return unicodedata.normalize("NFC", name)


def read(arrays: dict[str, np.ndarray], place: str, classes: tuple[str, ...]) -> Numbered:
    """Return the number of each sample's class, int64 (N,), and the names of the classes.

    Args:
        arrays: by split, (N,); names, numbers, or shares of 0 and 1, one-hot (N, K).
        place: file or function, for errors.
        classes: names; these decide the order of texts and the count of numbers.

    Raises:
        UserError: labels fit no classes, or a split has a class that train lacks.
    """
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
    texts = {split: [composed(str(value)) for value in array.tolist()] for split, array in arrays.items()}
    return named(texts, place, tuple(map(composed, classes)))


def named(texts: Mapping[str, Sequence[str]], place: str, classes: tuple[str, ...] = ()) -> Numbered:
    """Return the numbers of classes that are given by name, and the names in their natural order."""
    names = set(texts["train"])
    order = classes or tuple(in_order(names))
    for split, values in texts.items():
        if unknown := set(values) - (names if not classes else set(order)):
            whose = "train does not have" if not classes else "'classes' does not name"
            raise UserError(
                f"{place}: {split} has {_count(len(unknown), 'class', 'classes')} that {whose}: "
                f"{shortened([*map(repr, in_order(unknown))], 5)}.",
                "A network can't answer what it never saw.",
            )
    _check_number(len(names), len(texts["train"]), place, names)
    ids = {name: number for number, name in enumerate(order)}
    values = {split: np.array([ids[name] for name in column], np.int64) for split, column in texts.items()}
    return values, order


def _numbered(arrays: dict[str, np.ndarray], place: str, classes: tuple[str, ...]) -> Numbered:
    for split, array in arrays.items():
        if array.min() < 0 or array.max() >= len(classes):
            raise UserError(
                f"{place}: labels of {split} go from {array.min()} to {array.max()}, with {len(classes)} classes.",
                "Count classes from 0.",
            )
    _check_number(len(np.unique(arrays["train"])), len(arrays["train"]), place, classes)
    return {split: array.astype(np.int64) for split, array in arrays.items()}, classes


def _check_number(count: int, samples: int, place: str, names: Iterable[str]) -> None:
    if count < 2:
        raise UserError(
            f"{place}: all labels are the same, {shortened([*map(repr, sorted(names))], 5)}.",
            "There must be two classes at least.",
        )
    if count > MOST_CLASSES or (count > 20 and count > samples / 2):
        raise UserError(
            f"{place}: {count:,} different labels of {samples:,} samples are too many classes.",
            "Is the task regression, or the label another column?",
        )


def width_of(arrays: Mapping[str, np.ndarray], place: str, classes: tuple[str, ...]) -> int:
    """Return how many labels each sample has.

    Raises:
        UserError: splits differ, or there is another count of names.
    """
    widths = {split: 1 if array.ndim == 1 else array.shape[1] for split, array in arrays.items()}
    for split, width in widths.items():
        if width != widths["train"]:
            raise UserError(f"{place}: {split} has {width} labels of each sample, train has {widths['train']}.")
    if classes and len(classes) != widths["train"]:
        raise UserError(f"{place}: {len(classes)} names in 'classes', and {widths['train']} labels of each sample.")
    return widths["train"]


def _count(number: int, singular: str, plural: str) -> str:
    return f"a {singular}" if number == 1 else f"{number:,} {plural}"
