"""Checks that no sample's output depends on other samples or on their number."""

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd

from torchmill.components.doctor.probe import Probe, relative_difference, shape_of
from torchmill.components.doctor.trace import Call, Raised, Trace, tensors
from torchmill.components.doctor.verdict import Verdict

# Relative to the largest output. The same row of the same kernel gives the same bits, so this is generous.
MIXED = 1e-5
# Layers that drop values in training mode.
RANDOM = (_DropoutNd, nn.RNNBase)
BATCH_SIZE_REMEDY = (
    "Take the batch size from the input with x.size(0) or flatten(1), and name the dimension of squeeze."
)


def mixing(probe: Probe) -> Iterator[Verdict]:
    """Check that the output of one sample stays if all others change; in training, batch normalization may mix."""
    changed_batches = change_all_but_one(probe)
    for training in (False, True):
        in_eval = (_BatchNorm, *RANDOM) if training else ()
        if training and (_has_custom_batch_norm(probe) or (probe.is_tokens and _is_random(probe, in_eval))):
            return  # random numbers may depend on the lengths
        worst = 0.0
        for sample, changed_inputs in changed_batches.items():
            original = probe.run(training=training, in_eval=in_eval).logits
            changed = probe.run(changed_inputs, training=training, in_eval=in_eval).logits
            if not torch.isfinite(original).all():
                return
            if (change := relative_difference(original[sample], changed[sample])) > MIXED:
                layer, kind = _first_mixing(probe, sample, changed_inputs, training, in_eval)
                if training and _updates_buffers(probe, layer):
                    return  # a custom batch normalization, which needs no batch in evaluation mode
                yield Verdict(
                    "mixing",
                    "warn" if training else "fail",
                    layer,
                    f"with the other {len(changed_inputs) - 1} samples changed, the output of sample {sample} changes "
                    f"by {change:.2g} of its largest value in {'training' if training else 'evaluation'} mode; "
                    f"{kind} is the first layer to mix",
                    "Look there for a view, reshape or permute that swaps the batch with another dimension, for a "
                    "missing batch_first, or for an operation over dimension 0.",
                )
                return
            worst = max(worst, change)
        if not training:
            yield Verdict("mixing", "pass", "", f"with all other samples changed, outputs change by {worst:.1g}", "")


def _has_custom_batch_norm(probe: Probe) -> bool:
    """Return True if a layer other than torch's own normalizes by statistics of the batch."""
    return any(
        operation.name == "batch_norm"
        and not isinstance(operation.module, _BatchNorm)
        and operation.arguments["training"]
        for operation in probe.train_trace.operations
    )


def _updates_buffers(probe: Probe, layer: str) -> bool:
    """Return True if training changes buffers of a layer, as batch normalization updates its running statistics."""
    probe.run(training=True)
    module = probe.network.get_submodule(layer) if layer in dict(probe.network.named_modules()) else None
    if module is None:
        return False
    trained = [(buffer, buffer.clone()) for buffer in module.buffers() if buffer.is_floating_point()]
    probe.snapshot.restore()
    return any(not torch.equal(buffer, value) for buffer, value in trained)


def _is_random(probe: Probe, in_eval: tuple[type[nn.Module], ...]) -> bool:
    outputs = [probe.run(training=True, in_eval=in_eval, seed=seed).logits for seed in (1, 2)]
    return relative_difference(*outputs) > MIXED


def change_all_but_one(probe: Probe) -> dict[int, Tensor]:
    """Return batches in which all samples but one are changed, by the index of the unchanged sample.

    The index is in the middle of the batch; a batch of two gets one for each sample.
    """
    samples = probe.inputs
    batches = {}
    for index in {len(samples) // 2, 0} if len(samples) == 2 else {len(samples) // 2}:
        if probe.is_tokens:
            # Move tokens between samples: the network surely accepts their ids and lengths.
            changed = samples.roll(1, 0).flip(1) if probe.check_input.padding_index is None else samples.roll(1, 0)
            changed[index] = samples[index]
            if torch.equal(changed, samples):
                changed = samples.flip(1)
        else:
            changed = -1.7 * samples.flip(-1) + 0.3
        changed[index] = samples[index]
        batches[index] = changed
    return batches


def _first_mixing(
    probe: Probe, sample: int, changed_inputs: Tensor, training: bool, in_eval: tuple[type[nn.Module], ...]
) -> tuple[str, str]:
    """Return name and kind of the first layer that leaves no part of its output to the sample alone."""
    values: list[tuple[str, str, list[Tensor]]] = []

    def record(call: Call, entering: bool) -> None:
        copies = [value.detach().clone() for value in tensors(call.inputs if entering else call.output)]
        layer = (call.parent or call) if entering else call
        values.append((layer.name, type(layer.module).__name__ + (".forward" if entering else ""), copies[:1]))

    probe.run(training=training, in_eval=in_eval, observer=record)
    original = list(values)
    values.clear()
    probe.run(changed_inputs, training=training, in_eval=in_eval, observer=record)
    for (name, kind, before), (_, _, after) in zip(original, values, strict=False):
        if before and after and not _has_unmixed_part(before[0], after[0], sample, len(changed_inputs)):
            return name, kind
    return "", type(probe.network).__name__


def _has_unmixed_part(before: Tensor, after: Tensor, sample: int, samples: int) -> bool:
    """Return True if the sample's part is unchanged along some dimension: batch first, second, or in windows."""
    if before.shape != after.shape or not before.is_floating_point():
        return True  # not comparable
    batched = [dim for dim, size in enumerate(before.shape) if size and size % samples == 0]
    if not batched:
        return True  # a mask or another tensor without a batch
    for dim in batched:
        size = before.shape[dim] // samples
        parts = [value.narrow(dim, sample * size, size) for value in (before, after)]
        if relative_difference(*parts) <= MIXED:
            return True
    return False


def sizes(probe: Probe) -> Iterator[Verdict]:
    """Check that smaller batches, also of one sample, work and get the same outputs."""
    whole = probe.eval_trace.logits.detach()
    for size in sorted({1, len(probe.inputs) - 1}):
        try:
            trace = probe.run(probe.inputs[:size])
        except Raised as raised:
            evidence = f"{len(probe.inputs)} samples work, {size} raise {raised.summary}"
            yield Verdict("batch_size", "fail", raised.layer, evidence, BATCH_SIZE_REMEDY)
            return
        expected = (size, probe.check_input.num_outputs)
        if logits_shape(trace) != expected:
            evidence = (
                f"{size} of {len(probe.inputs)} samples give an output of shape {shape_of(trace.output)}, "
                f"expected {expected}"
            )
            yield Verdict("batch_size", "fail", "", evidence, BATCH_SIZE_REMEDY)
            return
        if torch.isfinite(whole).all() and (change := relative_difference(trace.logits, whole[:size])) > 1e-2:
            yield Verdict(
                "batch_size",
                "warn",
                "",
                f"the output of the same sample changes by {change:.2g} of the largest in a batch of {size}",
                "Look for a division by the batch size, or a mean over dimension 0.",
            )
            return


def logits_shape(trace: Trace) -> tuple[int, ...]:
    """Return the shape of the logits; empty if the output is no tensor."""
    return tuple(trace.logits.shape) if isinstance(trace.logits, Tensor) else ()
