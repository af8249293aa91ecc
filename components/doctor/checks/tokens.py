"""Checks of token sequences: padding must not change the outputs."""

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from torchmill.components.doctor.probe import Probe, relative_difference
from torchmill.components.doctor.recorder import ATTENTION
from torchmill.components.doctor.trace import Operation, Raised
from torchmill.components.doctor.verdict import Verdict

# Smallest change of the outputs, relative to the largest, that counts.
CHANGED = 1e-3
# Number of short samples to compare with and without padding.
SHORTEST = 4
# Share of real tokens that an inverted mask blocks, and of padding that it admits.
NEARLY_ALL = 0.9
# Largest value in a float mask, which is added to scores, that blocks a token.
BLOCKED = -1e3


def masks(probe: Probe) -> Iterator[Verdict]:
    """Check that attention masks block padding and not the real tokens."""
    index = probe.check_input.padding_index
    if index is None or not probe.is_tokens:
        return
    is_real = probe.inputs != index
    padded = ~is_real.all(1)  # samples with padding
    for operation in (*probe.eval_trace.operations, *probe.train_trace.operations):
        if operation.name not in ATTENTION or not padded.any():
            continue
        admitted = _admitted(operation, probe.inputs)
        if admitted is None:
            continue
        admitted, real = admitted[padded], is_real[padded]
        blocked, opened = (~admitted[real]).float().mean().item(), admitted[~real].float().mean().item()
        if blocked > NEARLY_ALL and opened > NEARLY_ALL:
            true_attends = operation.name == "scaled_dot_product_attention"
            yield Verdict(
                "attention_mask",
                "fail",
                operation.layer,
                f"the mask is inverted: it blocks {blocked:.0%} of the real tokens and admits {opened:.0%} of the "
                "padding",
                f"Pass attn_mask=tokens != {index}: scaled_dot_product_attention attends where its mask is True."
                if true_attends
                else f"Pass tokens == {index}: attention ignores keys for which a key_padding_mask is True.",
            )
            return


def _admitted(operation: Operation, tokens: Tensor) -> Tensor | None:
    """Return a mask (N, L) of the tokens that any query may attend to; None if the operation has no padding mask."""
    samples, length = tokens.shape
    if operation.name == "scaled_dot_product_attention":
        mask = operation.arguments.get("attn_mask")
        if not isinstance(mask, Tensor) or mask.dim() < 3:
            return None
        admits = mask if mask.dtype == torch.bool else mask > BLOCKED
    else:
        mask = operation.arguments.get("key_padding_mask")
        if not isinstance(mask, Tensor) or mask.dim() != 2:
            return None
        admits = ~mask if mask.dtype == torch.bool else mask > BLOCKED
    if admits.shape[0] % samples or admits.shape[-1] != length:
        return None
    return admits.reshape(samples, -1, length).any(1)


def padding(probe: Probe) -> Iterator[Verdict]:
    """Check that more padding, after or before a sequence as in the data, changes no output."""
    index = probe.check_input.padding_index
    if index is None or not probe.is_tokens:
        return
    for name, module in probe.network.named_modules():
        if isinstance(module, nn.Embedding) and module.padding_idx not in (None, index):
            yield Verdict(
                "padding",
                "warn",
                name,
                f"padding_idx is {module.padding_idx}, but the data pads with {index}",
                f"Use nn.Embedding(..., padding_idx={index}).",
            )
    largest_change, compared = 0.0, False
    for short, long, description in _pairs(probe.inputs, index):
        try:
            short_logits, long_logits = probe.run(short).logits, probe.run(long).logits
        except Raised:
            continue  # positions may end at the data's length, and convolutions need a few tokens
        if short_logits.shape != long_logits.shape:
            continue
        compared = True
        change = relative_difference(short_logits, long_logits)
        if change > CHANGED:
            yield Verdict(
                "padding",
                "fail",
                "",
                f"with {long.shape[1] - short.shape[1]} more padding tokens added to {description}, outputs change by "
                f"{change:.2g} of the largest",
                "Mask the padding with src_key_padding_mask in attention. In recurrent layers take the state at the "
                "last real token, and take means and maxima over real tokens only.",
            )
            return
        largest_change = max(largest_change, change)
    evidence = (
        f"with more padding tokens, outputs change by {largest_change:.1g}"
        if compared
        else f"inconclusive: the network accepts only sequences of {probe.inputs.shape[1]} tokens"
    )
    yield Verdict("padding", "pass", "", evidence, "")


def _pairs(tokens: Tensor, index: int) -> Iterator[tuple[Tensor, Tensor, str]]:
    """Yield the same sequences with less and with more padding, and a description of the shorter ones.

    The shortest samples are also compared without any padding: a maximum over much padding hides a little more.
    """
    pads_left = bool(((tokens[:, 0] == index) & (tokens[:, -1] != index)).any())
    yield tokens, _pad(tokens, index, 3, pads_left), f"sequences of {tokens.shape[1]} tokens"
    lengths = (tokens != index).sum(1)
    for row in lengths.argsort()[:SHORTEST].tolist():
        length = int(lengths[row])
        padded = tokens[row : row + 1]
        bare = padded[:, -length:] if pads_left else padded[:, :length]
        if 0 < length < tokens.shape[1] and bool((bare != index).all()):
            yield bare, padded, f"a sample of {length} tokens"


def _pad(tokens: Tensor, index: int, count: int, pads_left: bool) -> Tensor:
    padding = torch.full((len(tokens), count), index, dtype=tokens.dtype)
    return torch.cat([padding, tokens] if pads_left else [tokens, padding], 1)
