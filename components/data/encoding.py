"""Encodings of inputs: the tokens of a text, or the columns of a table."""

from collections.abc import Callable

import numpy as np

from torchmill.components.encoding.columns import Columns
from torchmill.components.encoding.vocabulary import Vocabulary
from torchmill.components.refs import DataRef

Encoding = Vocabulary | Columns
"""Both ``decode`` an input into words, and have a ``translation`` of inputs from another encoding."""


def read_encoding(data: DataRef) -> Encoding | None:
    """Return a data set's encoding; None for images, and for numbers whose columns have no names."""
    return data.field.read_encoding(data.folder)


def translation(theirs: Encoding | None, ours: Encoding | None) -> Callable[[np.ndarray], np.ndarray]:
    """Return a function that converts inputs from their encoding into ours: token ids (N, L), or numbers (N, F).

    Inputs stay as they are if the encodings are equal, or if one of them is unknown.

    Raises:
        UserError: a column is missing.
    """
    if ours != theirs:
        if isinstance(ours, Vocabulary) and isinstance(theirs, Vocabulary):
            return ours.translation(theirs)
        if isinstance(ours, Columns) and isinstance(theirs, Columns):
            return ours.translation(theirs)
    return lambda inputs: inputs
