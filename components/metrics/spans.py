"""Spans of tokens that labels of the scheme IOB2 mark, and the exact matches of two labellings."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

OUTSIDE, BEGIN, INSIDE = "O", "B-", "I-"


@dataclass(frozen=True)
class SpanLabels:
    """Labels of the scheme IOB2: ``O`` outside of spans, ``B-PER`` at the first token of one, ``I-PER`` at others."""

    types: tuple[str, ...]
    """Types of spans in sorted order."""
    begins: tuple[bool, ...]
    """True for each label that begins a span."""
    type_of: tuple[int, ...]
    """Type of each label; -1 of ``O``."""

    @classmethod
    def of(cls, names: Sequence[str]) -> "SpanLabels | None":
        """Return the scheme of labels; None if they don't follow it."""
        marked = [name for name in names if name != OUTSIDE]
        if not any(name.startswith(BEGIN) for name in marked) or not all(
            name.startswith((BEGIN, INSIDE)) and len(name) > len(BEGIN) for name in marked
        ):
            return None
        types = tuple(sorted({name[len(BEGIN) :] for name in marked}))
        type_of = tuple(-1 if name == OUTSIDE else types.index(name[len(BEGIN) :]) for name in names)
        return cls(types, tuple(name.startswith(BEGIN) for name in names), type_of)


def spans_of(labels: Sequence[int], scheme: SpanLabels) -> list[tuple[int, int, str]]:
    """Return (first token, end, type) of each span. An ``I-`` that continues no span of its type begins one.

    Example:
        >>> spans_of([1, 2, 0], SpanLabels.of(["O", "B-PER", "I-PER"]))
        [(0, 2, 'PER')]
    """
    spans: list[tuple[int, int, str]] = []
    before = -1
    for place, label in enumerate(labels):
        kind = scheme.type_of[label]
        if kind >= 0 and kind == before and not scheme.begins[label]:
            spans[-1] = (spans[-1][0], place + 1, spans[-1][2])
        elif kind >= 0:
            spans.append((place, place + 1, scheme.types[kind]))
        before = kind
    return spans


def matching_spans(truth: Tensor, answer: Tensor, counted: Tensor, scheme: SpanLabels) -> tuple[Tensor, Tensor, Tensor]:
    """Return the exact matches, and the spans of truth and of answers, each by sample and type, (N, types).

    Args:
        truth: labels (N, L).
        answer: labels (N, L).
        counted: False for tokens that are left out before spans are read, (N, L).
    """
    order = (~counted).long().argsort(dim=1, stable=True)
    type_of = torch.tensor(scheme.type_of, device=truth.device)
    begins = torch.tensor(scheme.begins, device=truth.device)
    starts, kinds, ends = [], [], []
    for labels in (truth, answer):
        labels = torch.where(counted, labels, 0)
        kind = torch.where(counted, type_of[labels], -1).gather(1, order)
        begin = begins[labels].gather(1, order)
        before = torch.nn.functional.pad(kind[:, :-1], (1, 0), value=-1)
        goes_on = (kind >= 0) & (kind == before) & ~begin
        starts.append((kind >= 0) & ~goes_on)
        kinds.append(kind)
        ends.append(_next_break(goes_on))
    both = starts[0] & starts[1] & (kinds[0] == kinds[1]) & (ends[0] == ends[1])
    count = len(scheme.types)
    return _by_type(both, kinds[0], count), _by_type(starts[0], kinds[0], count), _by_type(starts[1], kinds[1], count)


def _next_break(goes_on: Tensor) -> Tensor:
    """Return the first place behind each one at which no span goes on, (N, L)."""
    length = goes_on.shape[1]
    places = torch.arange(length, device=goes_on.device)
    breaks = torch.where(goes_on, length, places)
    behind = torch.nn.functional.pad(breaks[:, 1:], (0, 1), value=length)
    return behind.flip(1).cummin(1).values.flip(1)


def _by_type(marked: Tensor, kinds: Tensor, count: int) -> Tensor:
    """Count the marked places of each sample by type, (N, types)."""
    totals = torch.zeros(len(marked), count, dtype=torch.long, device=marked.device)
    return totals.scatter_add_(1, kinds.clamp(min=0), marked.long())
