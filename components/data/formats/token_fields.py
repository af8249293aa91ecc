"""Fields of texts that are cut into tokens already, and targets of names, as ids."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from torchmill.components.data.content import digests_of
from torchmill.components.data.formats.user_values import kind_of
from torchmill.components.encoding.vocabulary import SPECIAL, UNKNOWN, Vocabulary
from torchmill.components.errors import UserError, nearest, shortened
from torchmill.components.wording import percent

OUTSIDE = "O"
"""Label of tokens that belong to nothing, which comes first."""

MOST_UNKNOWN = 0.5
"""Largest share of training tokens that may become unknown because they occur once."""

MOST_TOLD = 4
"""Faults that an error lists."""

Columns = Mapping[str, Mapping[str, Any]]
"""Values of each field, by split and name."""


class Encoded(NamedTuple):
    """Fields with ids in place of strings."""

    columns: dict[str, dict[str, Any]]
    names: dict[str, Sequence[str]]
    """Names of ids by field."""
    vocabulary: Vocabulary | None
    """Tokens of all texts of the training split; None if no field holds texts."""
    notes: tuple[str, ...]
    tokens: Sequence[str]
    """Names of the fields that held texts."""
    digests: dict[str, np.ndarray]
    """Digest of each sample's texts by split, from the tokens themselves; empty without texts."""


def token_columns(columns: Columns, targets: frozenset[str]) -> list[str]:
    """Return the inputs that are lists of strings for each sample."""
    return [name for name in columns["train"] if name not in targets and _holds_lists(columns["train"][name])]


def token_digests(columns: Mapping[str, Any], names: Sequence[str]) -> np.ndarray:
    """Return the digest of each sample's texts, uint64 (N,)."""
    rows = zip(*(columns[name] for name in names), strict=True)
    return digests_of("\1".join("\0".join(map(str, text)) for text in row).encode() for row in rows)


def encoded_strings(columns: Columns, targets: frozenset[str], named: Mapping[str, Any], place: str) -> Encoded:
    """Return fields of lists of strings, and targets of strings, as ids.

    Inputs share a vocabulary of the training split, in which padding is 0 and unknown 1: a token that occurs once
    there is unknown, too, so that networks learn what to make of unknown ones. Names of targets come in sorted order,
    ``O`` first.

    Args:
        named: names of ids that the user gave, by field.

    Raises:
        UserError: samples hold something else than strings, or nothing.
    """
    train = columns["train"]
    names: dict[str, Sequence[str]] = {name: tuple(map(str, values)) for name, values in named.items()}
    tokens = token_columns(columns, targets)
    labels = [name for name in train if name in targets and (_holds_lists(train[name]) or _holds_strings(train[name]))]
    faults = [
        fault
        for split, part in columns.items()
        for name in (*tokens, *labels)
        for fault in _faults(part[name], _holds_lists(train[name]), f"{split} field '{name}'")
    ]
    if faults:
        more = f"; and {len(faults) - MOST_TOLD} more" * (len(faults) > MOST_TOLD)
        raise UserError(
            f"{place}: {'; '.join(faults[:MOST_TOLD])}{more}.", "Give a list of strings for each sample, none empty."
        )
    changed = {split: dict(part) for split, part in columns.items()}
    vocabulary, notes = None, ()
    if tokens:
        vocabulary, notes = _vocabulary(columns, tokens)
        for name in tokens:
            names[name] = vocabulary.tokens
            for split, part in columns.items():
                changed[split][name] = [_ids(text, vocabulary.ids) for text in part[name]]
    for name in labels:
        names[name] = names.get(name) or _in_order(part[name] for part in columns.values())
        ids = {label: number for number, label in enumerate(names[name])}
        for split, part in columns.items():
            changed[split][name] = _labels(part[name], ids, f"{place}: {split} field '{name}'")
    digests = {split: token_digests(part, tokens) for split, part in columns.items()} if tokens else {}
    return Encoded(changed, names, vocabulary, notes, tokens, digests)


def _holds_strings(values: Any) -> bool:
    return isinstance(values, list | np.ndarray) and len(values) > 0 and isinstance(values[0], str)


def _holds_lists(values: Any) -> bool:
    if isinstance(values, np.ndarray) and values.dtype.kind == "U":
        return values.ndim == 2
    if not isinstance(values, list) and not (isinstance(values, np.ndarray) and values.dtype == object):
        return False
    first = next((value for value in values if isinstance(value, list | tuple | np.ndarray) and len(value)), ())
    return len(first) > 0 and isinstance(first[0], str)


def _faults(values: Any, are_lists: bool, place: str) -> Iterable[str]:
    for row, value in enumerate(values):
        if not are_lists:
            if not isinstance(value, str):
                yield f"{place}: sample {row} is {kind_of(value)}, and others are strings"
            continue
        if isinstance(value, str) or not isinstance(value, list | tuple | np.ndarray):
            yield f"{place}: sample {row} is {kind_of(value)}, not a list of strings"
        elif not len(value):
            yield f"{place}: sample {row} is empty"
        elif odd := next((at for at, token in enumerate(value) if not isinstance(token, str)), None):
            yield f"{place}: sample {row} has {kind_of(value[odd])} as token {odd}, not a string"


def _vocabulary(columns: Columns, tokens: Sequence[str]) -> tuple[Vocabulary, tuple[str, ...]]:
    """Return the vocabulary of the training texts, and a note on tokens that it lacks."""
    counts = Counter(str(token) for name in tokens for text in columns["train"][name] for token in text)
    once = sum(number == 1 for number in counts.values()) / counts.total()
    least = 2 if once <= MOST_UNKNOWN else 1
    frequent = sorted((token for token in counts if counts[token] >= least), key=lambda token: (-counts[token], token))
    longest = max(len(text) for part in columns.values() for name in tokens for text in part[name])
    vocabulary = Vocabulary("words", lower_case=False, max_length=longest, tokens=(*SPECIAL, *frequent))
    shares = {}
    for split, part in columns.items():
        ids = np.concatenate([_ids(text, vocabulary.ids) for name in tokens for text in part[name]])
        shares[split] = percent(float((ids == UNKNOWN).mean()))
    unknown = ", ".join(f"{share} of {split}" for split, share in shares.items())
    return vocabulary, (f"{len(frequent):,} different tokens are known; unknown are {unknown}",)


def _ids(text: Sequence[str], ids: Mapping[str, int]) -> np.ndarray:
    return np.array([ids.get(str(token), UNKNOWN) for token in text], np.int64)


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
