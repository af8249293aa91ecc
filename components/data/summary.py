"""A summary of a prepared data set: guesses, the columns' meanings, the splits, and left-out files."""

from collections.abc import Iterator

import numpy as np

from torchmill.components.data.encoding import read_encoding
from torchmill.components.data.fetch import SPLITS
from torchmill.components.data.named_fields import named_fields
from torchmill.components.encoding.columns import Columns
from torchmill.components.errors import shortened
from torchmill.components.refs import DataRef

CLASSES_SHOWN = 12
NAME_WIDTH = 24


def summary(data: DataRef, columns_shown: int | None = None) -> list[str]:
    """Return a data set in words, for a user to check before hours are spent on it.

    Args:
        columns_shown: largest number of columns to describe; None for all.

    Example:
        >>> print(*summary(fetch("digits", cache)), sep="\\n")  # doctest: +SKIP
    """
    return [sizes(data), *_split_lines(data), *_column_lines(data, columns_shown), *data.notes]


def sizes(data: DataRef) -> str:
    """Return the samples of each split and the task, in a line."""
    counts = {"training": data.train_size, "validation": data.validation_size, "test": data.test_size}
    splits = ", ".join(f"{size:,} {split}" for split, size in counts.items() if size)
    if data.goal or data.field_refs:
        fields = ", ".join(f"{field.words()}{' to answer' if field.is_target else ''}" for field in named_fields(data))
        task = f" for {data.goal.title}" if data.goal else ""
        return f"{data.name}: {splits} samples{task}, sha256 {data.sha256[:12]}…: {fields}"
    task = data.task_object.describe_data(data.outputs)
    return f"{data.name}: {splits} {data.field.samples}{task}, sha256 {data.sha256[:12]}…"


def _split_lines(data: DataRef) -> Iterator[str]:
    """Yield how validation is cut, the classes with their training samples, and those that a split lacks."""
    if not data.validation_size:
        how = (
            "is the end of the training samples"
            if data.is_ordered
            else "is cut from the training samples by content and seed"
        )
        yield f"validation {how}: about data.validation_fraction of them"
    if data.field_refs or not data.task_object.is_exclusive:
        return
    for split in SPLITS:
        file = data.folder / f"{split}_labels.npy"
        if not file.is_file():
            continue
        labels = np.load(file)
        if labels.ndim != 1:
            return
        counts = np.bincount(labels, minlength=len(data.classes)).tolist()
        if split == "train":
            pairs = [f"{name} {count:,}" for name, count in zip(data.classes, counts, strict=True)]
            yield f"classes: {shortened(pairs, CLASSES_SHOWN)}"
        if missing := [name for name, count in zip(data.classes, counts, strict=True) if not count]:
            yield f"{split} has no samples of {shortened(missing, CLASSES_SHOWN)}"


def _column_lines(data: DataRef, most: int | None) -> Iterator[str]:
    """Yield the meaning of each column of a table, with an example."""
    columns = read_encoding(data)
    if not isinstance(columns, Columns):
        return
    row = np.load(data.folder / "train_inputs.npy", mmap_mode="r")[0].reshape(-1)
    examples = columns.cells(np.asarray(row))
    for column in columns.columns[:most]:
        singular = "date" if column.is_date else "number"
        kind = f"category of {len(column.categories):,}" if column.categories else singular
        kind += " and other" * column.has_other + ", gaps" * column.has_gaps
        yield f"column {column.name:{NAME_WIDTH}} {kind:16} for example {examples[column.name]}"
    if most is not None and len(columns.columns) > most:
        yield f"and {len(columns.columns) - most:,} more columns: torchmill data {data.name}"
