"""What the numbers of an input stand for: tokens of a text, or cells of a table."""

from collections.abc import Callable

import numpy as np

from torchmill.components.data.encoding.columns import Columns
from torchmill.components.data.encoding.vocabulary import Vocabulary
from torchmill.components.refs import DataRef

Encoding = Vocabulary | Columns
"""Both ``decode`` an input for people, and have a ``translation`` of inputs that another one has encoded."""


def read_encoding(data: DataRef) -> Encoding | None:
    """Give that of a data set; None of images, and of numbers whose columns have no names."""
    # Here, for it takes a quarter of a second, which whoever only predicts need not spend.
    from torchmill.components.data.fetch import read_columns, read_vocabulary

    match data.kind:
        case "tokens":
            return read_vocabulary(data)
        case "numbers":
            return read_columns(data)
        case _:
            return None


def translation(theirs: Encoding | None, ours: Encoding | None) -> Callable[[np.ndarray], np.ndarray]:
    """Say how inputs of their encoding become what ours would have had: token ids (N, L), or numbers (N, F).

    Where both are the same, or either is not known, they stay as they are.

    Raises:
        UserError: a column is missing.
    """
    if ours != theirs:
        if isinstance(ours, Vocabulary) and isinstance(theirs, Vocabulary):
            return ours.translation(theirs)
        if isinstance(ours, Columns) and isinstance(theirs, Columns):
            return ours.translation(theirs)
    return lambda inputs: inputs
