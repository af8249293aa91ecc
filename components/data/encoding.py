"""What the numbers of an input stand for: tokens of a text, or cells of a table."""

import numpy as np

from components.data.columns import Columns
from components.data.vocabulary import Vocabulary
from components.refs import DataRef

Encoding = Vocabulary | Columns
"""Both ``decode`` an input for people, and ``translate`` inputs that another one has encoded."""


def read_encoding(data: DataRef) -> Encoding | None:
    """Give that of a data set; None of images, and of numbers whose columns have no names."""
    # Here, for it takes a quarter of a second, which whoever only predicts need not spend.
    from components.data.fetch import read_columns, read_vocabulary

    match data.kind:
        case "tokens":
            return read_vocabulary(data)
        case "numbers":
            return read_columns(data)
        case _:
            return None


def translate(inputs: np.ndarray, theirs: Encoding | None, ours: Encoding | None) -> np.ndarray:
    """Give inputs as our encoding would have had them: token ids (N, L), or numbers (N, F).

    Where either is not known, they stay as they are.

    Raises:
        UserError: a column is missing.
    """
    if isinstance(ours, Vocabulary) and isinstance(theirs, Vocabulary):
        return ours.translate(inputs, theirs)
    if isinstance(ours, Columns) and isinstance(theirs, Columns):
        return ours.translate(inputs, theirs)
    return inputs
