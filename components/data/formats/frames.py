"""DataFrames and Series of pandas as arrays of numbers, and the faults of those that are none."""

from typing import Any

import numpy as np

from torchmill.components.errors import UserError
from torchmill.components.wording import count


def array_of(values: Any) -> np.ndarray:
    """Return a DataFrame or a Series as an array: of numbers, if all columns hold some, also of several types.

    Numpy's own conversion makes objects of bool beside floats, and of pandas' nullable integers.
    """
    array = values.to_numpy()
    if array.dtype.kind != "O":
        return array
    columns = [column for _, column in values.items()] if hasattr(values, "columns") else [values]
    types = [getattr(column.dtype, "numpy_dtype", column.dtype) for column in columns]
    is_whole = not any(column.isna().any() for column in columns)
    if is_whole and all(getattr(kind, "kind", "O") in "biuf" for kind in types):
        return values.astype(np.result_type(*types)).to_numpy()
    return array


def check_frame(frame: Any, place: str) -> None:
    """Refuse a DataFrame with columns that are no numbers, all of them at once.

    Raises:
        UserError: a column holds something else, or lacks values.
    """
    faults, texts = [], 0
    for name, column in frame.items():
        missing = column.isna().to_numpy()
        if getattr(column.dtype, "kind", "O") not in "biuf":
            example = next(iter(column[~missing]), None)
            faults.append(f"'{name}' holds {column.dtype}, for example {example!r}")
            texts += isinstance(example, str)
        elif missing.any():
            rows = count(int(missing.sum()), "row")
            faults.append(f"'{name}' has no value in {rows}, the first is row {missing.argmax()}")
        elif (rows := _too_large(column.to_numpy())).any():
            value = column.to_numpy()[rows.argmax()]
            faults.append(f"'{name}' holds {value:g} in row {rows.argmax()}, which float32 can't hold")
    if not faults or (frame.shape[1] == 1 and texts):  # a single column of texts is one text per sample
        return
    raise UserError(
        f"{place}: {'; '.join(faults)}.",
        "Make them numbers (pandas.get_dummies for categories, .astype('datetime64[s]').astype('int64') for dates, "
        "fillna for gaps), scale them, or leave them out.",
    )


def _too_large(values: np.ndarray) -> np.ndarray:
    """Return where float32 has no finite number for a value."""
    with np.errstate(over="ignore"):
        return ~np.isfinite(values.astype(np.float32))
