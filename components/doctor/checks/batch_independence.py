"""No sample's output depends on another sample, nor on how many there are."""

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd

from torchmill.components.doctor.probe import Probe, difference, shape_of
from torchmill.components.doctor.trace import Call, Raised, Trace, tensors
from torchmill.components.doctor.verdict import Verdict

# Relative to the largest output; the same row of the same kernel gives the same bits, so this is generous.
MIXED = 1e-5
# Layers that drop values in training mode.
CHANCE = (_DropoutNd, nn.RNNBase)


def mixing(probe: Probe) -> Iterator[Verdict]:
    """Change all samples but one: its output must stay. In training mode, batch normalisation alone may mix."""
    others = changed_others(probe)
    for training in (False, True):
        quiet = (_BatchNorm, *CHANCE) if training else ()
        if training and probe.is_tokens and _is_random(probe, quiet):
            return  # what is drawn may depend on the lengths
        if training and any(
            o.name == "batch_norm" and not isinstance(o.module, _BatchNorm) and o.arguments["training"]
            for o in probe.trained.operations
        ):
            return  # a batch normalisation of the user's own
        worst = 0.0
        for kept, inputs in others.items():
            one = probe.run(training=training, quiet=quiet).logits
            other = probe.run(inputs, training=training, quiet=quiet).logits
            if not torch.isfinite(one).all():
                return
            if (apart := difference(one[kept], other[kept])) > MIXED:
                layer, what = _first_mixing(probe, kept, inputs, training, quiet)
                if training and _gathers_statistics(probe, layer):
                    return  # a batch normalisation of the user's own, which evaluation does without the batch
                mode = "training" if training else "evaluation"
                yield Verdict(
                    "mixing",
                    "warn" if training else "fail",
                    layer,
                    f"with the other {len(inputs) - 1} samples changed, the output of sample {kept} changes by "
                    f"{apart:.2g} of its largest value in {mode} mode; {what} is the first where it does",
                    "Look there for a view, reshape or permute that swaps batch and another dimension, batch_first, "
                    "a softmax, mean or cat over dimension 0, or batch statistics without running ones.",
                )
                return
            worst = max(worst, apart)
        if not training:
            yield Verdict("mixing", "pass", "", f"with all other samples changed, outputs change by {worst:.1g}", "")


def _gathers_statistics(probe: Probe, layer: str) -> bool:
    """Whether training changes buffers of a layer, as batch normalisation does to have means for evaluation."""
    probe.run(training=True)
    module = probe.network.get_submodule(layer) if layer in dict(probe.network.named_modules()) else None
    if module is None:
        return False
    after = [(buffer, buffer.clone()) for buffer in module.buffers() if buffer.is_floating_point()]
    probe.snapshot.restore()
    return any(not torch.equal(buffer, one) for buffer, one in after)


def _is_random(probe: Probe, quiet: tuple[type[nn.Module], ...]) -> bool:
    one, other = (probe.run(training=True, quiet=quiet, seed=seed).logits for seed in (1, 2))
    return difference(one, other) > MIXED


def changed_others(probe: Probe) -> dict[int, Tensor]:
    """For a kept sample in the middle, and the first where there are but two: a batch with the others changed."""
    samples = probe.inputs
    others = {}
    for kept in {len(samples) // 2, 0} if len(samples) == 2 else {len(samples) // 2}:
        if probe.is_tokens:
            # Ids and lengths that the network is known to take: of samples that are there.
            changed = samples.roll(1, 0).flip(1) if probe.case.padding_index is None else samples.roll(1, 0)
            changed[kept] = samples[kept]
            if torch.equal(changed, samples):
                changed = samples.flip(1)
        else:
            changed = -1.7 * samples.flip(-1) + 0.3
        changed[kept] = samples[kept]
        others[kept] = changed
    return others


def _first_mixing(
    probe: Probe, kept: int, inputs: Tensor, training: bool, quiet: tuple[type[nn.Module], ...]
) -> tuple[str, str]:
    """The first layer whose output holds nothing that belongs to the kept sample alone."""
    seen: list[tuple[str, str, list[Tensor]]] = []

    def look(call: Call, entering: bool) -> None:
        values = [value.detach().clone() for value in tensors(call.inputs if entering else call.output)]
        where = (call.parent or call) if entering else call
        seen.append((where.name, type(where.module).__name__ + (".forward" if entering else ""), values[:1]))

    probe.run(training=training, quiet=quiet, look=look)
    first = list(seen)
    seen.clear()
    probe.run(inputs, training=training, quiet=quiet, look=look)
    for (name, kind, one), (_, _, other) in zip(first, seen, strict=False):
        if one and other and not _has_unmixed_part(one[0], other[0], kept, len(inputs)):
            return name, kind
    return "", type(probe.network).__name__


def _has_unmixed_part(one: Tensor, other: Tensor, kept: int, samples: int) -> bool:
    """Whether along some dimension, the part of the kept sample is the same: batch first or second, or windows."""
    if one.shape != other.shape or not one.is_floating_point():
        return True  # nothing to compare
    batched = [dim for dim, size in enumerate(one.shape) if size and size % samples == 0]
    if not batched:
        return True  # no batch in it, such as a mask
    for dim in batched:
        size = one.shape[dim] // samples
        parts = [value.narrow(dim, kept * size, size) for value in (one, other)]
        if difference(*parts) <= MIXED:
            return True
    return False


def sizes(probe: Probe) -> Iterator[Verdict]:
    """Batches of one sample and of another number of samples go through, and give the same answers."""
    whole = probe.evaluated.logits.detach()
    for size in sorted({1, len(probe.inputs) - 1}):
        try:
            trace = probe.run(probe.inputs[:size])
        except Raised as raised:
            yield Verdict(
                "batch_size",
                "fail",
                raised.layer,
                f"{len(probe.inputs)} samples go through, {size} raise {raised.words}",
                "Take the batch's size from the input: x.size(0), flatten(1), and squeeze(dim) with its dimension.",
            )
            return
        expected = (size, probe.case.num_outputs)
        if tuple(main_shape(trace)) != expected:
            yield Verdict(
                "batch_size",
                "fail",
                "",
                f"{size} of {len(probe.inputs)} samples give shape {shape_of(trace.output)}, expected {expected}",
                "Take the batch's size from the input: x.size(0), flatten(1), and squeeze(dim) with its dimension.",
            )
            return
        if torch.isfinite(whole).all() and (apart := difference(trace.logits, whole[:size])) > 1e-2:
            yield Verdict(
                "batch_size",
                "warn",
                "",
                f"the same sample's output differs by {apart:.2g} of the largest when it comes in a batch of {size}",
                "Look for a division by the batch's size, or a mean over dimension 0.",
            )
            return


def main_shape(trace: Trace) -> tuple[int, ...]:
    """The shape of the logits; empty where there are none."""
    return tuple(trace.logits.shape) if isinstance(trace.logits, Tensor) else ()
