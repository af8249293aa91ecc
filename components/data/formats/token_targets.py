"""Targets that are names: for each sample, or for each word of its text."""

from collections.abc import Iterable, Mapping, MutableMapping, Sequence
from typing import Any

import numpy as np

from torchmill.components.data.named_fields import IGNORED
from torchmill.components.encoding.words import Pieces
from torchmill.components.errors import UserError, nearest, shortened

OUTSIDE = "O"
"""Label of tokens that belong to nothing, which comes first."""


def holds_strings(values: Any) -> bool:
    """Return True for a string for each sample."""
    return isinstance(values, list | np.ndarray) and len(values) > 0 and isinstance(values[0], str)


def holds_lists(values: Any) -> bool:
    """Return True for a list of strings for each sample."""
    if isinstance(values, np.ndarray) and values.dtype.kind == "U":
        return values.ndim == 2
    if not isinstance(values, list) and not (isinstance(values, np.ndarray) and values.dtype == object):
        return False
    first = next((value for value in values if isinstance(value, list | tuple | np.ndarray) and len(value)), ())
    return len(first) > 0 and isinstance(first[0], str)


def named_targets(
    columns: Mapping[str, MutableMapping[str, Any]],
    labels: Sequence[str],
    names: MutableMapping[str, Sequence[str]],
    place: str,
) -> None:
    """Replace the names in some targets by ids, and add the names of these ids.

    Raises:
        UserError: the user's names lack some.
    """
    for name in labels:
        names[name] = names.get(name) or _in_order(part[name] for part in columns.values())
        ids = {label: number for number, label in enumerate(names[name])}
        for split, part in columns.items():
            part[name] = _labels(part[name], ids, f"{place}: {split} field '{name}'")


def _in_order(parts: Iterable[Any]) -> tuple[str, ...]:
    """Return the different labels in sorted order, ``O`` first."""
    labels = {
        str(label) for part in parts for value in part for label in ((value,) if isinstance(value, str) else value)
    }
    return tuple(sorted(labels, key=lambda label: (label != OUTSIDE, label)))


def _labels(values: Any, ids: Mapping[str, int], place: str) -> Any:
    """Return the ids of labels: an array (N,), or one for each sample."""
    used = {str(label) for value in values for label in ((value,) if isinstance(value, str) else value)}
    if unknown := sorted(used - ids.keys()):
        raise UserError(f"{place} holds {shortened(unknown)}, which 'names' lacks.", nearest(unknown[0], ids))
    if isinstance(values[0], str):
        return np.array([ids[str(label)] for label in values], np.int64)
    return [np.array([ids[str(label)] for label in value], np.int64) for value in values]


def at_first_pieces(
    changed: Mapping[str, MutableMapping[str, Any]],
    columns: Mapping[str, Mapping[str, Any]],
    pieces: Mapping[str, Sequence[Pieces]],
    targets: frozenset[str],
    place: str,
) -> None:
    """Move labels of words to the first id of each word; all other ids get -100.

    Targets with one label for each sample stay as they are.

    Args:
        changed: fields by split and name, whose targets are replaced.
        columns: fields as the user gave them.
        pieces: ids of the texts by split.

    Raises:
        UserError: a text has another number of labels than of words.
    """
    for name in sorted(targets & columns["train"].keys()):
        if not np.ndim(changed["train"][name][0]):
            continue
        for split, part in changed.items():
            rows = []
            for row, (labels, text) in enumerate(zip(part[name], pieces[split], strict=True)):
                if len(labels) != len(text.firsts):
                    raise UserError(
                        f"{place} field '{name}' of {split}: sample {row} has the length {len(labels)}, and "
                        f"{len(text.firsts)} words.",
                        "Give a label for each word.",
                    )
                firsts = np.array(text.firsts)
                spread = np.full(len(text.ids), IGNORED, np.int64)
                spread[firsts[firsts >= 0]] = np.asarray(labels)[firsts >= 0]
                rows.append(spread)
            part[name] = rows
