"""Sequences of tokens: what is padding must not count."""

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from torchmill.components.doctor.probe import Probe, difference
from torchmill.components.doctor.trace import ATTENTION, Operation, Raised
from torchmill.components.doctor.verdict import Verdict

COUNTS = 1e-3
SHORTEST = 4
# Of the tokens, so many are blocked or open where a mask is the wrong way round.
NEARLY_ALL = 0.9
# A float mask is added to scores: what it makes as small as this gets no attention.
BLOCKED = -1e3


def masks(probe: Probe) -> Iterator[Verdict]:
    """Attention's masks block padding, not the real tokens: what they let through is padding alone, and constant."""
    index = probe.case.padding_index
    if index is None or not probe.is_tokens:
        return
    real = probe.inputs != index
    real = real[~real.all(1)]  # where there is padding to let through
    for operation in (*probe.evaluated.operations, *probe.trained.operations):
        if operation.name not in ATTENTION or not len(real):
            continue
        let_through = _let_through(operation, probe.inputs)
        if let_through is None:
            continue
        let_through = let_through[~(probe.inputs != index).all(1)]
        blocked, opened = (~let_through[real]).float().mean().item(), let_through[~real].float().mean().item()
        if blocked > NEARLY_ALL and opened > NEARLY_ALL:
            keeps = operation.name == "scaled_dot_product_attention"
            yield Verdict(
                "attention_mask",
                "fail",
                operation.layer,
                f"the mask is the wrong way round: {blocked:.0%} of the real tokens are blocked, {opened:.0%} of the "
                "padding is let through",
                f"scaled_dot_product_attention attends where its mask is True: attn_mask=tokens != {index}."
                if keeps
                else f"A key_padding_mask is True where attention is to ignore: tokens == {index}.",
            )
            return


def _let_through(operation: Operation, tokens: Tensor) -> Tensor | None:
    """Which tokens of which samples (N, L) some query of some head may attend to; None where no mask says so."""
    samples, length = tokens.shape
    if operation.name == "scaled_dot_product_attention":
        mask = operation.arguments.get("attn_mask")
        if not isinstance(mask, Tensor) or mask.dim() < 3:
            return None
        keeps = mask if mask.dtype == torch.bool else mask > BLOCKED
    else:
        mask = operation.arguments.get("key_padding_mask")
        if not isinstance(mask, Tensor) or mask.dim() != 2:
            return None
        keeps = ~mask if mask.dtype == torch.bool else mask > BLOCKED
    if keeps.shape[0] % samples or keeps.shape[-1] != length:
        return None
    return keeps.reshape(samples, -1, length).any(1)


def padding(probe: Probe) -> Iterator[Verdict]:
    """More padding behind a sequence, or before it where that is the custom, changes no output."""
    index = probe.case.padding_index
    if index is None or not probe.is_tokens:
        return
    for name, module in probe.network.named_modules():
        if isinstance(module, nn.Embedding) and module.padding_idx not in (None, index):
            yield Verdict(
                "padding",
                "warn",
                name,
                f"padding_idx is {module.padding_idx}, the data's padding is {index}",
                f"nn.Embedding(..., padding_idx={index}).",
            )
    told, skipped = 0.0, True
    for short, long, what in _pairs(probe.inputs, index):
        try:
            before, after = probe.run(short), probe.run(long)
        except Raised:
            continue  # a table of positions may be as long as the data and no longer, a convolution needs a few tokens
        if before.logits.shape != after.logits.shape:
            continue
        skipped = False
        worst = difference(before.logits, after.logits)
        if worst > COUNTS:
            yield Verdict(
                "padding",
                "fail",
                "",
                f"with {long.shape[1] - short.shape[1]} more tokens of padding behind {what}, outputs change by "
                f"{worst:.2g} of the largest",
                "Mask it: src_key_padding_mask for attention, the state at the last real token for recurrent layers, "
                "a mean or maximum over real tokens alone.",
            )
            return
        told = max(told, worst)
    evidence = (
        f"nothing is concluded: only sequences of {probe.inputs.shape[1]} tokens go through"
        if skipped
        else f"with more tokens of padding, outputs change by {told:.1g}"
    )
    yield Verdict("padding", "pass", "", evidence, "")


def _pairs(tokens: Tensor, index: int) -> Iterator[tuple[Tensor, Tensor, str]]:
    """The same sequences with less and with more padding: behind them, or before them where that is the custom.

    The shortest ones also without any: a maximum over much padding does not change with a little more.
    """
    left = bool(((tokens[:, 0] == index) & (tokens[:, -1] != index)).any())
    yield tokens, _pad(tokens, index, 3, left), f"{tokens.shape[1]}"
    lengths = (tokens != index).sum(1)
    for row in lengths.argsort()[:SHORTEST].tolist():
        length = int(lengths[row])
        whole = tokens[row : row + 1]
        bare = whole[:, -length:] if left else whole[:, :length]
        if 0 < length < tokens.shape[1] and bool((bare != index).all()):
            yield bare, whole, f"the {length} of a short sample"


def _pad(tokens: Tensor, index: int, count: int, left: bool) -> Tensor:
    more = torch.full((len(tokens), count), index, dtype=tokens.dtype)
    return torch.cat([more, tokens] if left else [tokens, more], 1)
