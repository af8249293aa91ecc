"""Sequences of tokens: what is padding must not count."""

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from components.doctor.subject import Subject, difference
from components.doctor.trace import Raised
from components.doctor.verdict import Verdict

COUNTS = 1e-3


def padding(subject: Subject) -> Iterator[Verdict]:
    """More padding behind a sequence, or before it where that is the custom, changes no output."""
    index = subject.case.padding_index
    if index is None or not subject.is_tokens:
        return
    for name, module in subject.network.named_modules():
        if isinstance(module, nn.Embedding) and module.padding_idx not in (None, index):
            yield Verdict(
                "padding",
                "warn",
                name,
                f"padding_idx is {module.padding_idx}, the data's padding is {index}",
                f"nn.Embedding(..., padding_idx={index}).",
            )
    for short, long in _pairs(subject.inputs, index):
        try:
            before, after = subject.run(short), subject.run(long)
        except Raised:
            continue  # a table of positions may be as long as the data and no longer
        if before.logits.shape != after.logits.shape:
            continue
        worst = difference(before.logits, after.logits)
        added = long.shape[1] - short.shape[1]
        if worst > COUNTS:
            yield Verdict(
                "padding",
                "fail",
                "",
                f"with {added} more tokens of padding behind {short.shape[1]}, "
                f"outputs change by {worst:.2g} of the largest",
                "Mask it: src_key_padding_mask for attention, pack_padded_sequence or the state at the last "
                "real token for recurrent layers, a mean or maximum over real tokens alone.",
            )
        else:
            yield Verdict(
                "padding", "pass", "", f"with {added} more tokens of padding, outputs change by {worst:.1g}", ""
            )
        return
    yield Verdict(
        "padding",
        "pass",
        "",
        f"nothing is concluded: only sequences of {subject.inputs.shape[1]} tokens go through",
        "",
    )


def _pairs(tokens: Tensor, index: int) -> Iterator[tuple[Tensor, Tensor]]:
    """The same sequences with less and with more padding: behind them, or before them where that is the custom."""
    left = bool(((tokens[:, 0] == index) & (tokens[:, -1] != index)).any())
    yield tokens, _pad(tokens, index, 3, left)
    lengths = (tokens != index).sum(1)
    shorter = lengths[(lengths < tokens.shape[1]) & (lengths > 0)]
    if len(shorter):
        longest = int(shorter.max())
        some = tokens[(lengths <= longest) & (lengths > 0)]
        yield (some[:, -longest:] if left else some[:, :longest]), some


def _pad(tokens: Tensor, index: int, count: int, left: bool) -> Tensor:
    more = torch.full((len(tokens), count), index, dtype=tokens.dtype)
    return torch.cat([more, tokens] if left else [tokens, more], 1)
